"""Dropout, of which every mask follows from the seed, the step and the place in the batch."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Key(nnx.Variable):
    """Data of a PRNG key, which training does not change."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noise:
    """When and where a batch, or a device's part of one, is trained on.

    Attributes:
      step: updates made before.
      first: place of its first network in the whole batch.
    """

    step: Any
    first: Any


class Dropout(nnx.Module):
    """Sets a share of values to 0 and scales up the rest."""

    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        """Args:
        rate: the share, below 1.
        """
        self.rate = rate
        self.key_data = Key(jax.random.key_data(rngs.params()))

    def __call__(self, x: Float[Array, "B V"], noise: Noise, layer: int) -> Float[Array, "B V"]:
        """Values with other gaps for each layer, so that one module does for several."""
        key = jax.random.wrap_key_data(self.key_data[...])
        key = jax.random.fold_in(jax.random.fold_in(key, noise.step), layer)
        places_B = noise.first + jnp.arange(x.shape[0], dtype=jnp.int32)

        def kept(place):
            return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - self.rate, x.shape[1:])

        return jnp.where(jax.vmap(kept)(places_B), x / (1 - self.rate), 0)
