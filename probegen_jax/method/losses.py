"""Losses per network: the step weighs and averages them, so that a padded batch counts right."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(outputs: Float[Array, "B O"], targets: Int[Array, " B"]) -> Float[Array, " B"]:
    """Softmax cross-entropy of logits against class indices."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def squared_error(outputs: Float[Array, "B 1"], targets: Float[Array, " B"]) -> Float[Array, " B"]:
    """Squared error of a single output."""
    return jnp.square(outputs[:, 0] - targets)


LOSSES: dict[str, Loss] = {"classification": cross_entropy, "regression": squared_error}
