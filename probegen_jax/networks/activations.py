"""The activations that networks of the CNN zoos use, by name."""

import functools
from types import MappingProxyType

import jax
import jax.numpy as jnp

from probegen_jax.networks.sine import sine

# Of the SELU (Klambauer et al., Self-Normalizing Neural Networks, 2017): λ, and λ times α.
_LAMBDA, _LAMBDA_ALPHA = 1.0507009873554805, 1.7580993408473766


# The order is part of the format: zoos store an activation as its place here. New ones come last.
ACTIVATIONS = MappingProxyType(
    {
        "none": lambda x: x,
        "relu": jax.nn.relu,
        "gelu": functools.partial(jax.nn.gelu, approximate=False),
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.01),
        "sine": sine,
        "selu": jax.nn.selu,
    }
)

# Slopes as functions of what the activation puts out, for those whose output tells.
SLOPES = MappingProxyType(
    {
        "none": jnp.ones_like,
        "relu": lambda y: (y > 0).astype(y.dtype),
        "tanh": lambda y: 1 - y * y,
        "sigmoid": lambda y: y * (1 - y),
        "leaky_relu": lambda y: jnp.where(y < 0, y.dtype.type(0.01), y.dtype.type(1)),
        # λ above 0; below, y = λα(eˣ − 1).
        "selu": lambda y: jnp.where(y > 0, y.dtype.type(_LAMBDA), y + y.dtype.type(_LAMBDA_ALPHA)),
    }
)


def unknown_activation(name: str) -> str:
    """The message for a name that is not in `ACTIVATIONS`."""
    return f"unknown activation {name!r}; known are {', '.join(ACTIVATIONS)}"
