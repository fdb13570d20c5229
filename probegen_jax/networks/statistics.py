"""Statistics of a network's weights, by array (Unterthiner et al., 2020: Predicting Neural Network
Accuracy from Weights): mean, variance, and the quantiles 0, 25, 50, 75 and 100 %.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
STATISTICS = 2 + len(QUANTILES)  # of an array


def arrays(weights: Any) -> list[Float[Array, "B _"]]:
    """The arrays of every network of a batch, of floats, each in one row; in their fixed order."""
    leaves = [leaf for leaf in jax.tree.leaves(weights) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return [leaf.reshape(leaf.shape[0], -1) for leaf in leaves]


def of_all(rows: Sequence[Float[Array, "B _"]]) -> Float[Array, "B _"]:
    """The statistics of each array, one after the other."""
    return jnp.concatenate([of_rows(row_BxV) for row_BxV in rows], axis=1)


def of_rows(
    values_BxV: Float[Array, "B V"], counts_B: Int[Array, " B"] | None = None
) -> Float[Array, "B _"]:
    """The statistics of each row; quantiles are interpolated linearly.

    Args:
      counts_B: how many of a row's values, the first ones, there are; all, if None.
    """
    size = values_BxV.shape[1]
    if counts_B is None:
        counts_B = jnp.full(values_BxV.shape[:1], size, jnp.int32)
    there_BxV = jnp.arange(size)[None] < counts_B[:, None]
    number_B = counts_B.astype(jnp.float32)
    mean_B = jnp.sum(jnp.where(there_BxV, values_BxV, 0), axis=1) / number_B
    squares_BxV = jnp.where(there_BxV, jnp.square(values_BxV - mean_B[:, None]), 0)
    ordered_BxV = jnp.sort(jnp.where(there_BxV, values_BxV, jnp.inf), axis=1)
    places_BxQ = jnp.asarray(QUANTILES)[None] * (number_B - 1)[:, None]
    below_BxQ = jnp.floor(places_BxQ)
    low, high = (
        jnp.take_along_axis(ordered_BxV, at.astype(jnp.int32), axis=1)
        for at in (below_BxQ, jnp.ceil(places_BxQ))
    )
    quantiles_BxQ = low + (high - low) * (places_BxQ - below_BxQ)
    variance_B = jnp.sum(squares_BxV, axis=1) / number_B
    return jnp.concatenate([mean_B[:, None], variance_B[:, None], quantiles_BxQ], axis=1)


class ReadableWeights:
    """The part of `contract.NetworkSpec` for methods that read weights and do not probe.

    Attributes:
      num_statistics: how many `statistics` are; None where that follows from `abstract`.
    """

    num_statistics: int | None = None

    def flat(self, weights: Any) -> Float[Array, "B V"]:
        """All weights of each network of a batch in one row; a `UserError` where they differ."""
        return jnp.concatenate(arrays(weights), axis=1)

    def statistics(self, weights: Any) -> Float[Array, "B F"]:
        """Statistics of each array of each network of a batch."""
        return of_all(arrays(weights))
