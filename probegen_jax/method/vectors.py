"""Training states of few arrays, for devices where every array costs the start of a kernel."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from probegen_jax.method.learning import Learner, Sums, TrainState


class Vectors:
    """Training states of few arrays: all parameters, each of their moments, and all counts.

    A GPU then starts one kernel for all parameters, in place of one for each.
    """

    def __init__(self, learner: Learner, state_S: TrainState):
        self._learner = learner
        params = jax.tree.map(lambda leaf: leaf[0], state_S.params)
        vector, self._split = ravel_pytree(params)
        self._opt_state = jax.eval_shape(learner.optimizer.init, vector)
        self._factors = learner.factors(params)
        if self._factors is not None:
            self._factors = type(self._factors)(
                *(ravel_pytree(jax.tree.map(jnp.full_like, params, f))[0] for f in self._factors)
            )

    def join(self, state: TrainState) -> TrainState:
        """A seed's state as vectors."""

        def one(like, part):
            return ravel_pytree(part)[0] if like.ndim else part

        opt_state = jax.tree.map(one, self._opt_state, state.opt_state)
        params = ravel_pytree(state.params)[0]
        return self._pack(dataclasses.replace(state, params=params, opt_state=opt_state))

    def part(self, state: TrainState) -> TrainState:
        """The inverse of `join`."""
        state = self._unpack(state)

        def one(leaf):
            return self._split(leaf) if leaf.ndim else leaf

        opt_state, params = jax.tree.map(one, state.opt_state), self._split(state.params)
        return dataclasses.replace(state, params=params, opt_state=opt_state)

    def improve(self, state: TrainState, sums: Sums) -> tuple[TrainState, Float[Array, ""]]:
        """See `Learner.improve`."""
        sums = dataclasses.replace(sums, gradient=ravel_pytree(sums.gradient)[0])
        state, loss = self._learner.improve(self._unpack(state), sums, self._factors)
        return self._pack(state), loss

    def _pack(self, state: TrainState) -> TrainState:
        """Moments as a list, counts as an array."""
        leaves = [*jax.tree.leaves(state.opt_state), state.step]
        moments = [leaf for leaf in leaves if leaf.ndim]
        counts = jnp.stack([leaf for leaf in leaves if not leaf.ndim])
        return dataclasses.replace(state, opt_state=moments, step=counts)

    def _unpack(self, state: TrainState) -> TrainState:
        """The inverse of `_pack`."""
        moments, (*counts, step) = iter(state.opt_state), state.step
        counts = iter(counts)
        opt_state = jax.tree.map(
            lambda like: next(moments if like.ndim else counts), self._opt_state
        )
        return dataclasses.replace(state, opt_state=opt_state, step=step)
