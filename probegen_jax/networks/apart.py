"""Keeping XLA from fusing what is faster apart."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays, whose results are computed once and kept in memory.

    XLA may compute a small array anew for each pixel that reads it. On a CPU it does so through
    an `optimization_barrier`, too, but does not look into a conditional: here one that is always
    true, which XLA does not know.
    """

    @functools.wraps(function)
    def alone(*args: Any) -> Any:
        def on_cpu(*args: Any) -> Any:
            first = jax.tree.leaves(args)[0].ravel()[0]
            always = ~(jnp.square(first) < -1)  # also where it is NaN
            return jax.lax.cond(always, function, _zeros, *args)

        def _zeros(*args: Any) -> Any:
            shapes = jax.eval_shape(function, *args)
            return jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), shapes)

        def elsewhere(*args: Any) -> Any:
            return jax.lax.optimization_barrier(function(*args))

        return jax.lax.platform_dependent(*args, cpu=on_cpu, default=elsewhere)

    return alone
