"""Shapes of weights, as specs give them."""

import math
from typing import Any

import jax
import numpy as np


def affine(*shape: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A kernel (..., in, out) and its bias, as an `abstract` has them."""
    kernel, bias = (jax.ShapeDtypeStruct(x, np.float32) for x in (shape, shape[-1:]))
    return {"kernel": kernel, "bias": bias}


def size_of(abstract: Any) -> int:
    """Numbers in one network of these shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract))
