"""Networks as flat vectors, which is how zoos are stored, and back."""

import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from probegen_jax.errors import UserError


def size(abstract: Any) -> int:
    """Numbers in one network of these shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract))


def flatten(weights: Any) -> Float[np.ndarray, " V"]:
    """One network's weights, leaf after leaf in tree order, each in row-major order."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(weights)])


def unflatten(vectors_NxV: Float[np.ndarray, "N V"], abstract: Any) -> Any:
    """Stacked weights from stacked vectors: views of them, nothing is copied.

    They are the pytree of `abstract`, with a leading network axis on every leaf. A `UserError` if
    the vectors are too long or too short.
    """
    number, width = vectors_NxV.shape
    if width != size(abstract):
        raise UserError(
            f"networks hold {width} weights, the settings describe {size(abstract)}; set width and "
            "depth to those of the zoo"
        )
    leaves, treedef = jax.tree.flatten(abstract)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    parts = np.split(vectors_NxV, ends[:-1], axis=1)
    return treedef.unflatten(
        part.reshape(number, *leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
    )


def unflatten_one(vector: Float[np.ndarray, " V"], abstract: Any) -> Any:
    """One network's weights, as `unflatten` gives those of many."""
    return jax.tree.map(lambda leaf: leaf[0], unflatten(vector[None], abstract))
