"""Weights of a CNN from PyTorch's names and layout."""

from collections.abc import Iterable, Mapping, Sequence
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


def shapes(layers: Iterable[Sequence[int]], num_classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays, in torch's layout.

    Args:
      layers: of each, channels in and out and the size of the kernel.
    """
    found: dict[str, tuple[int, ...]] = {}
    out = 0
    for index, (m, out, k) in enumerate(layers):
        found |= {f"layers.{index}.weight": (out, m, k, k), f"layers.{index}.bias": (out,)}
    return found | {"fc.weight": (num_classes, out), "fc.bias": (num_classes,)}


def to_torch(weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`."""
    state = {}
    for index, affine in enumerate(weights["layers"]):
        state[f"layers.{index}.weight"] = affine["kernel"].transpose(3, 2, 0, 1)
        state[f"layers.{index}.bias"] = affine["bias"]
    return state | {"fc.weight": weights["head"]["kernel"].T, "fc.bias": weights["head"]["bias"]}
