"""Flax layers with PyTorch's default initialisation, which the published figures rest on."""

import math

import jax
import jax.numpy as jnp
from flax import nnx


def uniform_fan_in(fan_in: int) -> nnx.Initializer:
    """U(±1/√fan_in), what `torch.nn.Linear` and `ConvTranspose2d` draw kernels and biases from.

    Args:
      fan_in: as PyTorch counts it: inputs of a Linear; of a ConvTranspose2d, *output* channels
        times kernel area, since its weight is stored as (in, out, k, k) and axis 1 is counted.
    """
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding  # Flax passes it to initialisers that can place their result
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dense(in_features: int, out_features: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer, kernel (in, out), as `torch.nn.Linear` initialises it."""
    init = uniform_fan_in(in_features)
    return nnx.Linear(in_features, out_features, kernel_init=init, bias_init=init, rngs=rngs)
