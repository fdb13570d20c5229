"""Reading the maps of one layer, whose shape is known when it runs, forwards and back."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.maps import Reduce, read
from probegen_jax.networks.mixed_cnn.kinds import Shape
from probegen_jax.networks.mixed_cnn.on_cpu.in_place import update_if

# A flat buffer, and where in it images begin.
Place = tuple[jax.Array, Any]
# Images of a shape, from a flat buffer and where they begin in it.
Images = Callable[[jax.Array, Any, Shape], jax.Array]


def nothing(reduce: Reduce, layers: int, shape: Shape, chunk: int, query: jax.Array) -> jax.Array:
    """Zeros for what is read of so many layers, (L, P, K)."""
    image = jax.ShapeDtypeStruct((chunk, *shape), jnp.float32)
    values = jax.eval_shape(functools.partial(read, reduce), image, image, query)
    return jnp.zeros((layers, *values.shape), values.dtype)


def forward(
    reduce: Reduce,
    images: Images,
    shapes: Sequence[Shape],
    chosen: jax.Array,
    before: Place,
    after: Place,
    query: Float[Array, " Q"],
) -> Float[Array, "P K"]:
    """What is read of maps of the chosen shape, before and after their activation."""

    def of_shape(shape, z, y):
        return read(reduce, images(z, before[1], shape), images(y, after[1], shape), query)

    branches = [functools.partial(of_shape, shape) for shape in shapes]
    return jax.lax.switch(chosen, branches, before[0], after[0])


def backward(
    reduce: Reduce,
    images: Images,
    shapes: Sequence[Shape],
    chosen: jax.Array,
    before: Place,
    activation: jax.Array,
    query: Float[Array, " Q"],
    g: Float[Array, "P K"],
    buffers: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, Float[Array, " Q"]]:
    """The gradients of what `forward` was given, from that of what it read.

    Args:
      activation: place in `ACTIVATIONS`; maps after it are computed once more.
      buffers: to the first, the gradient of maps after the activation is added; to the second,
        that of maps before it is written.

    Returns:
      The buffers, and the gradient of the query.
    """
    found = (*buffers, jnp.zeros_like(query))
    for number, shape in enumerate(shapes):

        def update(found, zero, shape=shape):
            g_after, g_before, _ = found
            z = images(before[0], before[1] + zero, shape)
            y = jax.lax.switch(activation, list(ACTIVATIONS.values()), z)
            g_z, g_y, g_query = jax.vjp(functools.partial(read, reduce), z, y, query)[1](g)
            total = g_after[: g_y.size] + g_y.reshape(-1)
            g_after = jax.lax.dynamic_update_slice(g_after, total, (0,))
            g_before = jax.lax.dynamic_update_slice(g_before, g_z.reshape(-1), (0,))
            return g_after, g_before, g_query

        found = update_if(chosen == number, update, found)
    return found
