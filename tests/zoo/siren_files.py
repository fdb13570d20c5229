"""A small SIREN as torch stores it, and as a zoo holds it."""

import numpy as np
import torch

from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.siren import SirenSpec

SPEC = SirenSpec(hidden=(8,))
KEYS = ReadOptions()


def state(seed=0, prefix=""):
    rng = np.random.default_rng(seed)
    shapes = {"0.weight": (8, 2), "0.bias": (8,), "1.weight": (1, 8), "1.bias": (1,)}
    return {
        f"{prefix}seq.{name}": torch.tensor(rng.standard_normal(shape), dtype=torch.float32)
        for name, shape in shapes.items()
    }


def flat(tensors):
    """Such a network as a zoo holds it: of each layer the bias, then the kernel."""
    weights = [
        tensors[f"seq.{name}"].float().numpy()
        for name in ("0.bias", "0.weight", "1.bias", "1.weight")
    ]
    return np.concatenate([each.T.ravel() for each in weights])


STATE = state()
RIGHT = flat(STATE)
