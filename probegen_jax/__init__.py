"""Deep linear probe generators for weight-space learning, in JAX and Flax."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probegen_jax.runs.predictor import Predictor

__version__ = "0.1.0"


def load(path: str | os.PathLike[str], **options: Any) -> "Predictor":
    """A trained run or an exported model, to predict with: `load(path).predict(networks)`.

    Args:
      path: of a run folder, or of a folder that `probegen_jax.export` wrote.
      **options: as of `predictor.load`.

    Raises:
      UserError: no such folder, or a run that is not finished.
    """
    from probegen_jax.runs import predictor

    return predictor.load(path, **options)
