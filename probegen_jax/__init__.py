"""Deep linear probe generators for weight-space learning, in JAX and Flax."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probegen_jax.runs.predictor import Predictor
    from probegen_jax.train import train_zoo as train

__version__ = "0.1.0"
__all__ = ["load", "train"]

# Importing this package alone imports no jax.


def load(path: str | os.PathLike[str], **options: Any) -> "Predictor":
    """A trained run or an exported model, to predict with: `load(path).predict(networks)`.

    Args:
      **options: as of `runs.exported.load`.
    """
    from probegen_jax.runs import exported

    return exported.load(path, **options)


def __getattr__(name: str) -> Any:
    if name == "train":  # a module that can be called: `python -m` and `train(zoo)` share the name
        return importlib.import_module("probegen_jax.train")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
