"""Weights of a CNN from PyTorch's names and layout."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def from_torch(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights as `CnnSpec` describes them, in float32 NumPy arrays, from a PyTorch state dict.

    That holds `layers.i.weight` (out, in, k, k) and `.bias`, `fc.weight` (classes, C) and `.bias`.
    """

    def array(name: str) -> np.ndarray:
        return np.asarray(state[name], np.float32)

    layers = []
    while f"layers.{len(layers)}.weight" in state:
        name = f"layers.{len(layers)}"
        kernel = array(f"{name}.weight").transpose(2, 3, 1, 0)
        layers.append({"kernel": kernel, "bias": array(f"{name}.bias")})
    return {
        "layers": tuple(layers),
        "head": {"kernel": array("fc.weight").T, "bias": array("fc.bias")},
    }


def to_torch(weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`."""
    state = {}
    for index, affine in enumerate(weights["layers"]):
        state[f"layers.{index}.weight"] = affine["kernel"].transpose(3, 2, 0, 1)
        state[f"layers.{index}.bias"] = affine["bias"]
    return state | {"fc.weight": weights["head"]["kernel"].T, "fc.bias": weights["head"]["bias"]}
