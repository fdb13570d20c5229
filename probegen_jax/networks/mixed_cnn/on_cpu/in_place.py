"""Flat buffers that loops update in place, in one of several ways that the data choose.

XLA copies a buffer that a conditional updates, but not one that a loop updates. So a
buffer passes through several loops, one for each way, and each loop runs once or not at all.

What a conditional puts out is an array of its own, here always an image, biases and links added. In
a flat buffer, XLA would compute the channel of every value: that takes three times as long.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def update_if(where: jax.Array, update: Callable[[Any, jax.Array], Any], buffer: Any) -> Any:
    """`update(buffer, 0)` where true, else `buffer`, one or several, in place.

    The zero is the loop's counter. What `update` computes must depend on it, or XLA finds that the
    loop does not change it and computes it in any case, outside the loop.
    """
    return jax.lax.fori_loop(
        0, where.astype(jnp.int32), lambda zero, buffer: update(buffer, zero), buffer
    )


def write_images(
    chosen: jax.Array,
    shapes: list[tuple[int, int, int]],
    run: Callable[[int, jax.Array], jax.Array],
    source: jax.Array,
    target: tuple[jax.Array, Any],
) -> jax.Array:
    """`run(chosen, source)`, images of `shapes[chosen]`, written to a place in a flat buffer."""
    buffer, at = target
    for shape in sorted(set(shapes)):
        numbers = [number for number, other in enumerate(shapes) if other == shape]
        is_chosen = jnp.asarray(np.array(numbers, np.int32)) == chosen

        def update(buffer, zero, numbers=numbers, is_chosen=is_chosen):
            member = jnp.argmax(is_chosen).astype(jnp.int32) + zero
            branches = [functools.partial(run, number) for number in numbers]
            images = jax.lax.switch(member, branches, source)
            return jax.lax.dynamic_update_slice(buffer, images.reshape(-1), (at,))

        buffer = update_if(jnp.any(is_chosen), update, buffer)
    return buffer


def map_blocks(
    functions: list[Callable[..., jax.Array]],
    chosen: jax.Array,
    blocks: jax.Array,
    block_size: int,
    sources: list[tuple[jax.Array, Any]],
    target: tuple[jax.Array, Any],
) -> jax.Array:
    """The chosen function of some flat buffers, block by block, written to another in place.

    Each function has a loop of its own, so that XLA makes one pass over memory of it; between
    a conditional and the buffers it would make one more for each of them.

    Args:
      functions: from a block of each source to one of the target.
      blocks: how many, of `block_size` values.
      sources: buffers, and where to begin in each; `target` is one, too.
    """
    buffer, to = target
    for number, function in enumerate(functions):

        def step(block, buffer, function=function):
            start = block * block_size
            values = [
                jax.lax.dynamic_slice(source, (at + start,), (block_size,))
                for source, at in sources
            ]
            return jax.lax.dynamic_update_slice(buffer, function(*values), (to + start,))

        times = jnp.where(chosen == number, blocks, 0)
        buffer = jax.lax.fori_loop(0, times, step, buffer)
    return buffer
