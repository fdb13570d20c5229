"""Trained models on networks of a zoo: one way for training, evaluation, prediction and reports.

Networks lie on the devices or are streamed to them, as in training, so that a zoo which can be
trained on can also be evaluated.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from probegen_jax.method import learning
from probegen_jax.training.batch_order import in_order
from probegen_jax.training.batches import make_batches
from probegen_jax.training.mesh import BY_SEED, fetch, make_mesh, place
from probegen_jax.training.programs import Programs
from probegen_jax.training.resident import Batches, Resident, place_targets
from probegen_jax.zoo.zoo import Networks


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Runs models on networks of a zoo, in this process alone and on one of its devices."""

    learner: learning.Learner
    zoo: Networks
    batch_size: int
    mode: str = "auto"

    def outputs(
        self,
        state_S: learning.TrainState,
        rows_N: Int[np.ndarray, " N"],
        answers_first: bool = False,
    ) -> Float[np.ndarray, "S N O"]:
        """Every seed's outputs for networks.

        Args:
          state_S: what is used of it is `params` and `fixed`.
          answers_first: whether all networks answer before the head runs, as in a training whose
            probes are fixed; the results are then its very bits.
        """
        programs, batches, state_S = self._ready(state_S, rows_N)
        if answers_first:
            programs, batches = with_responses(programs, batches, self.zoo, state_S)
        laid_out = batches.outputs(programs, state_S.params, state_S.fixed, "rows")
        return on_host(programs.mesh, laid_out, len(rows_N))

    def responses(
        self, state_S: learning.TrainState, rows_N: Int[np.ndarray, " N"]
    ) -> Float[np.ndarray, "S N P R"]:
        """Every seed's responses of networks to its probes; as `outputs`."""
        programs, batches, state_S = self._ready(state_S, rows_N)
        slots, places = batches.layout.rows_BxM.shape
        laid_out = fetch(programs.mesh, batches.responses(programs, state_S))
        # From slot by slot to batch by batch, which is the order of the rows.
        by_slot = laid_out.reshape(len(laid_out), slots, places, *laid_out.shape[2:])
        in_rows = by_slot.swapaxes(1, 2).reshape(laid_out.shape)
        return in_rows[:, : len(rows_N)]

    def _ready(
        self, state_S: learning.TrainState, rows_N: Int[np.ndarray, " N"]
    ) -> tuple[Programs, Batches, learning.TrainState]:
        """What runs, on what, with which parameters."""
        batch_size = min(self.batch_size, len(rows_N))
        mesh = make_mesh(batch_size, devices=jax.local_devices()[:1])
        seeds = len(jax.tree.leaves(state_S.params)[0])
        no_order_S = jax.random.split(jax.random.key(0), seeds)  # nothing is shuffled
        layout = in_order(rows_N, batch_size)
        batches = make_batches(self.zoo, layout, mesh, no_order_S, self.mode)
        used = learning.TrainState(state_S.params, state_S.fixed, None, None)
        return _programs(self.learner, mesh), batches, place(mesh, used, BY_SEED)


def answers_once(learner: learning.Learner, state_S: learning.TrainState) -> bool:
    """Whether networks answer once and for all: neither probes nor what is read change."""
    head = nnx.eval_shape(lambda: learner.make_model(jax.random.key(0)).head)
    return learning.probes_are_fixed(state_S) and head.answers_once


def with_responses(
    programs: Programs,
    batches: Batches,
    zoo: Networks,
    state_S: learning.TrainState,
    keys_S: Any = None,
) -> tuple[Programs, Resident]:
    """Programs and batches in which responses to fixed probes replace the networks.

    Every network answers once; from then on only the head runs.

    Args:
      keys_S: of each seed, for the order of its batches in training.
    """
    layout, mesh = batches.layout, programs.mesh
    answers = batches.responses(programs, state_S)
    learner = dataclasses.replace(programs.learner, from_responses=True)
    resident = Resident(layout, answers, place_targets(zoo, layout, mesh), keys_S)
    return _programs(learner, mesh), resident


def on_host(
    mesh: Mesh, outputs: list[Float[Array, "S T B O"]], number: int
) -> Float[np.ndarray, "S N O"]:
    """Outputs of `Batches.outputs`, without what fills up the last batch."""
    outputs_SxTxBxO = np.concatenate(fetch(mesh, outputs), axis=1)
    outputs_SxNxO = outputs_SxTxBxO.reshape(len(outputs_SxTxBxO), -1, outputs_SxTxBxO.shape[-1])
    return outputs_SxNxO[:, :number]


@functools.lru_cache(maxsize=8)  # programs are compiled when they are first called
def _programs(learner: learning.Learner, mesh: Mesh) -> Programs:
    return Programs(learner, mesh)
