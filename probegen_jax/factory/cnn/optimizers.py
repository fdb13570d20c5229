"""Optimizers whose choice and settings are data, so that networks under different ones share a
compilation. Each takes the steps that Optax's takes with the same name and settings.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

OPTIMIZERS = ("adam", "sgd", "rmsprop")

# Mean of gradients (sgd: their decayed sum), and mean of squared gradients.
State = tuple[Float[Array, " V"], Float[Array, " V"]]

_BETA1, _BETA2, _RMS_DECAY, _EPSILON = 0.9, 0.999, 0.9, 1e-8


def update(
    optimizer: Int[Array, ""],
    momentum: Float[Array, ""],
    grad: Float[Array, " V"],
    state: State,
    step: Int[Array, ""],
) -> tuple[Float[Array, " V"], State]:
    """What to take off the weights, for a learning rate of 1, and the next state.

    Args:
      optimizer: place in `OPTIMIZERS`.
      state: of the step before; zeros before the first.
    """
    mean, square = state

    def adam():
        number = (step + 1).astype(jnp.float32)
        new_mean = _BETA1 * mean + (1 - _BETA1) * grad
        new_square = _BETA2 * square + (1 - _BETA2) * grad * grad
        root = jnp.sqrt(new_square / (1 - _BETA2**number))
        return new_mean / (1 - _BETA1**number) / (root + _EPSILON), (new_mean, new_square)

    def sgd():
        total = momentum * mean + grad
        return total, (total, square)

    def rmsprop():
        new_square = _RMS_DECAY * square + (1 - _RMS_DECAY) * grad * grad
        return grad * jax.lax.rsqrt(new_square + _EPSILON), (mean, new_square)

    return jax.lax.switch(optimizer, (adam, sgd, rmsprop))
