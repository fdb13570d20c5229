"""Dropout whose choices follow from a few numbers and each value's position."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Dropout(NamedTuple):
    """Dropout of one step; JAX's own generator would take as long as the rest of it on a CPU.

    Attributes:
      rate: share of a layer's outputs that is dropped.
      words: whole numbers; others choose other values.
    """

    rate: Float[Array, ""]
    words: tuple[Array | int, ...]

    def __call__(self, x: Float[Array, "..."], layer: int) -> Float[Array, "..."]:
        """What becomes of the outputs of a layer, given its number."""
        # Divided last: XLA repeats cheaper operations for each place of the next kernel.
        return jnp.where(self.keeps(x.shape, layer), x, 0) / (1 - self.rate)

    def keeps(self, shape: tuple[int, ...], layer: int) -> Bool[Array, "..."]:
        """Which outputs of a layer stay."""
        key = jnp.uint32(0)
        for word in (*self.words, layer):
            key = _mixed(key + jnp.asarray(word).astype(jnp.uint32))
        position = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
        number = _mixed(position + key) >> jnp.uint32(8)  # 24 bits: exact in float32
        return number.astype(jnp.float32) >= self.rate * jnp.float32(2**24)


def _mixed(x: Array) -> Array:
    """A bijection of 32 bits in which every bit depends on every other (Wellons' lowbias32)."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return x ^ (x >> jnp.uint32(16))
