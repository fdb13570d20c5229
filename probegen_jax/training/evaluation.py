"""Trained models on networks of a zoo: one way for training, evaluation, prediction and reports.

Networks lie on the devices or are streamed to them, as in training, so that a zoo which can be
trained on can also be evaluated.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from probegen_jax.method import learning
from probegen_jax.training.batch_order import in_order
from probegen_jax.training.batches import Batches, Resident, make_batches, place_targets
from probegen_jax.training.mesh import BY_SEED, fetch, make_mesh, place
from probegen_jax.training.programs import Programs
from probegen_jax.zoo.zoo import Zoo


def outputs(
    learner: learning.Learner,
    zoo: Zoo,
    state_S: learning.TrainState,
    rows_N: Int[np.ndarray, " N"],
    batch_size: int,
    mode: str = "auto",
) -> Float[np.ndarray, "S N O"]:
    """Every seed's outputs for networks of a zoo, computed by this process alone.

    Args:
      learner: how to run the model.
      zoo: with weights on the host, or stored.
      state_S: what is used of it is `params` and `fixed`.
      rows_N: of the networks.
      batch_size: networks that run together.
      mode: "resident", "stream", or "auto": resident if the networks fit on the device.

    Raises:
      UserError: the zoo cannot be streamed.
    """
    layout, mesh = in_order(rows_N, batch_size), _mesh(batch_size)
    batches = make_batches(zoo, layout, mesh, _no_keys(state_S), mode)
    state_S = _on_device(mesh, state_S)
    programs = _programs(learner, mesh)
    if learning.probes_are_fixed(state_S):  # in two parts, as in training
        programs, batches = with_responses(programs, batches, zoo, state_S)
    return split_outputs(programs, batches, state_S.params, state_S.fixed, "rows", len(rows_N))


def responses(
    learner: learning.Learner,
    zoo: Zoo,
    state_S: learning.TrainState,
    rows_N: Int[np.ndarray, " N"],
    batch_size: int,
    mode: str = "auto",
) -> Float[np.ndarray, "S N P R"]:
    """Every seed's responses of networks of a zoo to its probes; arguments as of `outputs`."""
    layout, mesh = in_order(rows_N, batch_size), _mesh(batch_size)
    batches = make_batches(zoo, layout, mesh, _no_keys(state_S), mode)
    state_S = _on_device(mesh, state_S)
    slots, places = layout.rows_BxM.shape
    laid_out = fetch(mesh, batches.responses(_programs(learner, mesh), state_S))
    # From slot by slot to batch by batch, which is the order of the rows.
    by_slot = laid_out.reshape(len(laid_out), slots, places, *laid_out.shape[2:])
    in_rows = by_slot.swapaxes(1, 2).reshape(laid_out.shape)
    return in_rows[:, : len(rows_N)]


def with_responses(
    programs: Programs, batches: Batches, zoo: Zoo, state_S: learning.TrainState, keys_S: Any = None
) -> tuple[Programs, Resident]:
    """Programs and batches in which the responses to fixed probes stand for the networks.

    Every network answers once, for good; from then on only the head runs.

    Args:
      programs: for the networks.
      batches: of the networks.
      zoo: theirs.
      state_S: its probes are not trained.
      keys_S: of each seed, for the order of its batches in training.
    """
    layout, mesh = batches.layout, programs.mesh
    answers = batches.responses(programs, state_S)
    learner = dataclasses.replace(programs.learner, from_responses=True)
    resident = Resident(layout, answers, place_targets(zoo, layout, mesh), keys_S)
    return _programs(learner, mesh), resident


def split_outputs(
    programs: Programs, batches: Batches, params_S: Any, fixed_S: Any, split: str, number: int
) -> Float[np.ndarray, "S N O"]:
    """Every seed's outputs for the `number` networks of a split, in their order, on the host."""
    return on_host(programs.mesh, batches.outputs(programs, params_S, fixed_S, split), number)


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


def _mesh(batch_size: int) -> Mesh:
    """One device of this process: others may be at work elsewhere."""
    return make_mesh(batch_size, devices=jax.local_devices()[:1])


def _on_device(mesh: Mesh, state_S: learning.TrainState) -> learning.TrainState:
    used = learning.TrainState(state_S.params, state_S.fixed, None, None)
    return place(mesh, used, BY_SEED)


def _no_keys(state_S: learning.TrainState) -> Key[Array, " S"]:
    """As many keys as there are seeds; nothing is shuffled with them."""
    seeds = len(jax.tree.leaves(state_S.params)[0])
    return jax.random.split(jax.random.key(0), seeds)
