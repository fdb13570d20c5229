"""What training runs on the devices, each function compiled once for the whole job."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from probegen_jax.method import learning
from probegen_jax.training.batch_order import Layout, epoch_places_of_seeds, local_rows
from probegen_jax.training.mesh import (
    BATCHES,
    BY_NETWORK,
    BY_SEED,
    DATA,
    EVERYWHERE,
    SEEDS,
    on_mesh,
    platform_of,
)


class Programs:
    """The compiled functions of a job; the networks are laid out by slot, see `batch_order`.

    Attributes:
      run_steps: `learning.train_steps` on a device's networks, with places instead of rows:
        (state_S, losses_SxT, weights, targets_N, places_SxKxB, first, start, stop).
      predict: each seed's outputs (S, T, B, O) for batches of places:
        (params_S, fixed_S, weights, targets_N, places_TxB).
      keep_better: `learning.choose_per_seed`.
      with_params: `Learner.with_params`.
      after_validation: `Learner.after_validation`.
      last_rate: `Recipe.last_rate` of a state.
    """

    def __init__(self, learner: learning.Learner, mesh: Mesh):
        self.mesh = mesh
        axis = DATA if mesh.shape[DATA] > 1 else None
        learner = dataclasses.replace(learner, data_axis=axis, platform=platform_of(mesh))
        self.learner = learner
        networks = P(SEEDS, DATA) if learner.from_responses else BY_NETWORK

        def run_steps(state_S, losses_SxT, weights, targets_N, places_SxKxB, first, start, stop):
            rows_SxKxB = local_rows(places_SxKxB, targets_N.shape[0] // places_SxKxB.shape[-1])
            return learning.train_steps(
                learner, state_S, losses_SxT, weights, targets_N, rows_SxKxB, first, start, stop
            )

        def predict(params_S, fixed_S, weights, targets_N, places_TxB):
            rows_TxB = local_rows(places_TxB, targets_N.shape[0] // places_TxB.shape[-1])
            outputs = learning.predict(learner, params_S, fixed_S, weights, rows_TxB)
            return outputs.reshape(outputs.shape[0], *rows_TxB.shape, outputs.shape[-1])

        bounds = (EVERYWHERE,) * 3
        self.run_steps = on_mesh(
            mesh,
            run_steps,
            (BY_SEED, BY_SEED, networks, BY_NETWORK, BATCHES, *bounds),
            (BY_SEED, BY_SEED),
        )
        self.predict = on_mesh(
            mesh,
            predict,
            (BY_SEED, BY_SEED, networks, BY_NETWORK, P(None, DATA)),
            BATCHES,
        )
        by_seed = NamedSharding(mesh, BY_SEED)
        self.keep_better = jax.jit(learning.choose_per_seed, out_shardings=by_seed)
        self.with_params = jax.jit(learner.with_params, out_shardings=by_seed)
        self.after_validation = jax.jit(learner.after_validation, out_shardings=by_seed)
        self.last_rate = jax.jit(
            lambda state_S: learner.recipe.last_rate(state_S.opt_state), out_shardings=by_seed
        )

    def init(self, keys_S: Key[Array, " S"]) -> learning.TrainState:
        """A fresh state for every seed."""
        return jax.jit(self.learner.init, out_shardings=NamedSharding(self.mesh, BY_SEED))(keys_S)

    def epoch(self, keys_S: Key[Array, " S"], epoch: int, layout: Layout) -> Int[Array, "S T B"]:
        """Every seed's batches of an epoch, as `batch_order.epoch_places` makes them."""
        with jax.transfer_guard("allow"):  # keys lie on one device, and go to all once an epoch
            places_BxT = layout.places("train")
            return self._epoch(keys_S, np.int32(epoch), places_BxT, layout.ranks_BxT)

    @functools.cached_property
    def _epoch(self) -> Any:
        return jax.jit(epoch_places_of_seeds, out_shardings=NamedSharding(self.mesh, BATCHES))

    def responses(
        self, state_S: learning.TrainState, weights: Any, layout: Layout
    ) -> Float[Array, "S N P R"]:
        """Every seed's responses of all networks, laid out as they are."""
        slots, places = layout.rows_BxM.shape
        mine = slots // self.mesh.shape[DATA]
        model = nnx.eval_shape(lambda: self.learner.make_model(jax.random.key(0)))
        # Weights are read at once, for networks may share arrays that are read as a whole.
        in_batches = (1, -1) if model.head.reads_weights else (-1, mine)
        rows_TxB = np.arange(places * mine, dtype=np.int32).reshape(in_batches)

        def ask(state_S, weights):
            return learning.responses(self.learner, state_S, weights, jnp.asarray(rows_TxB))

        return on_mesh(self.mesh, ask, (BY_SEED, BY_NETWORK), P(SEEDS, DATA))(state_S, weights)
