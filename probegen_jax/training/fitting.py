"""Trainings of one step: what is fitted at once, and then as any other training is."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probegen_jax.training.loop import Training, _Boundary
from probegen_jax.training.mesh import BY_SEED, place


class Fitting(Training):
    """A training whose only step takes the head's parameters from a function."""

    def __init__(
        self,
        *args: Any,
        fit: Callable[[], dict[str, Any]],
        loss: Callable[[Any, Any], Any],
        **kwargs: Any,
    ):
        """Args:
        fit: the head's parameters, as a pure dict, which all seeds share.
        loss: of each network, by its outputs and its target; for the log.
        *args, **kwargs: those of `Training`.
        """
        super().__init__(*args, **kwargs)
        self._fit, self._loss = fit, loss

    def _advance(self, most_steps: int) -> tuple[int, _Boundary | None]:
        """See `Training`; the whole training."""
        with jax.transfer_guard("allow"):
            seeds, head = len(self._losses_SxT), self._fit()
            params = {"head": jax.tree.map(lambda leaf: np.stack([leaf] * seeds), head)}
            params = place(self.mesh, params, BY_SEED)
            step = place(self.mesh, np.ones(seeds, np.int32), BY_SEED)
            opt_state = jax.vmap(self._programs.learner.optimizer.init)(params)  # as if begun so
            self.state = dataclasses.replace(
                self.state, params=params, step=step, opt_state=place(self.mesh, opt_state, BY_SEED)
            )
            outputs = self.outputs("train", params)
            targets_N = self.zoo.targets_N[self.zoo.splits["train"]]
            targets_N = jnp.asarray(targets_N)
            losses = [jnp.mean(self._loss(jnp.asarray(each), targets_N)) for each in outputs]
            self._losses_SxT = place(self.mesh, np.float32(losses)[:, None], BY_SEED)
            self.done = 1
            val_outputs = self._outputs("val", params)
        return 1, _Boundary({"step": 1, "epoch": 1}, self._losses_SxT, params, val_outputs)
