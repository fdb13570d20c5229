"""Training and evaluation as pure functions; several seeds are one more leading axis S.

Everything here is traced: configs, files and progress live in `train`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key

from probegen_jax.method.dropout import Noise
from probegen_jax.method.recipe import Factors, Recipe, after_validation, averaged
from probegen_jax.method.tasks import Loss, pairwise_rank_loss
from probegen_jax.method.vectors import Vectors
from probegen_jax.networks.contract import NetworkSpec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes, and the fixed state that it also needs.

    Attributes:
      params: what is trained, as a pure dict; leaves have a leading seed axis S outside `vmap`.
      fixed: variables of the model that are not trained (synthetic probes).
      step: updates made so far, int32.
    """

    params: Any
    fixed: Any
    opt_state: Any
    step: Any  # an array; but transformations build this class around other leaves, too


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """Over the networks of a batch: their losses' gradient, their losses, how many they are."""

    gradient: Any
    loss: Any
    count: Any


@dataclasses.dataclass(frozen=True)
class Learner:
    """The static side of training: how to make a model, run it and improve it.

    Attributes:
      make_model: from a key to a fresh Flax model, called with stacked zoo weights.
      loss: per-network loss; None, as the optimizer, if the model is only run.
      recipe: that the optimizer is of; None for the paper's.
      noisy: whether the model has dropout or augmentation.
      seeds_in_turn: whether seeds run one after another, though the networks would let them run
        side by side; see `readouts.base.Readout`.
      data_axis: the mesh axis that batches are split over, if training runs inside a `shard_map`
        over more than one device.
      platform: of the devices that training runs on: "cpu", "gpu" or "tpu".
      from_responses: whether each seed's `responses` replace the zoo's weights: if probes are
        fixed, they are computed once, and only the head runs.
    """

    make_model: Callable[[Key[Array, ""]], nnx.Module]
    spec: NetworkSpec
    loss: Loss | None = None
    optimizer: optax.GradientTransformation | None = None
    data_axis: str | None = None
    platform: str = "cpu"
    from_responses: bool = False
    recipe: Recipe | None = None
    noisy: bool = False
    seeds_in_turn: bool = False

    def init(self, keys_S: Key[Array, " S"]) -> TrainState:
        """A fresh state for every seed."""

        def one(key):
            _, params, fixed = nnx.split(self.make_model(key), nnx.Param, ...)
            params, fixed = nnx.to_pure_dict(params), nnx.to_pure_dict(fixed)
            return TrainState(params, fixed, self.optimizer.init(params), jnp.zeros((), jnp.int32))

        return jax.vmap(one)(keys_S)

    def with_params(self, state_S: TrainState, params_S: Any) -> TrainState:
        """A fresh state, but for its parameters."""
        fresh = jax.vmap(self.optimizer.init)(params_S)
        return dataclasses.replace(state_S, params=params_S, opt_state=fresh)

    @functools.cached_property
    def graphdef(self) -> Any:
        """The model's structure, to be merged with a state's `params` and `fixed`."""
        model = nnx.eval_shape(lambda: self.make_model(jax.random.key(0)))
        return nnx.split(model, nnx.Param, ...)[0]

    def outputs(
        self, params: Any, fixed: Any, weights_B: Any, noise: Noise | None = None
    ) -> Float[Array, "B O"]:
        """The model's outputs for a batch of zoo networks, or of their responses.

        Args:
          noise: of a training step, if the model is noisy.
        """
        model = nnx.merge(self.graphdef, params, fixed)
        return (model.read if self.from_responses else model)(weights_B, noise)

    def take(self, zoo_weights: Any, rows_B: Int[Array, " B"]) -> Any:
        """The networks of a batch, or their responses; any where the row is -1."""
        rows_B = jnp.maximum(rows_B, 0)
        if self.from_responses:
            return zoo_weights[rows_B]
        return self.spec.take(zoo_weights, rows_B)

    @property
    def seeds_side_by_side(self) -> bool:
        """Whether networks are run for all seeds at once; else for one seed after another."""
        return self.spec.vmap_seeds and not self.seeds_in_turn

    def over_seeds(self, function: Callable[..., Any], zoo_weights: Any, *args_S: Any) -> Any:
        """Calls `function(zoo_weights, *args)` for every seed and stacks what it returns.

        Seeds share the networks, but each has responses of its own.
        """
        if self.from_responses:
            return jax.vmap(function)(zoo_weights, *args_S)
        if self.seeds_side_by_side:
            return jax.vmap(functools.partial(function, zoo_weights))(*args_S)
        return jax.lax.map(lambda args: function(zoo_weights, *args), args_S)

    def improved(self, state_S: TrainState) -> Any:
        """The parameters that training has come to: their average, if the recipe keeps one."""
        return averaged(state_S.params, state_S.opt_state)

    def probes(self, state_S: TrainState) -> Float[Array, "S P ..."]:
        """The probes that each seed's generator makes now."""

        def one(params, fixed):
            return nnx.merge(self.graphdef, params, fixed).generator()

        return jax.jit(jax.vmap(one))(state_S.params, state_S.fixed)

    def sums(
        self, state: TrainState, weights_B: Any, targets_B: Array, valid_B: Bool[Array, " B"]
    ) -> Sums:
        """The `Sums` of a batch, or of a device's part of one, for one seed.

        Where `valid_B` is False the batch is padding, which is ignored.
        """
        noise = None
        if self.noisy:
            part = 0 if self.data_axis is None else jax.lax.axis_index(self.data_axis)
            noise = Noise(state.step, part * len(targets_B))

        def total_loss(params):
            outputs = self.outputs(params, state.fixed, weights_B, noise)
            losses_B = self.loss(outputs, targets_B)
            if self.recipe is not None and self.recipe.rank_loss:
                batch = outputs[:, 0], targets_B, valid_B
                axis = self.data_axis
                others = batch if axis is None else jax.lax.all_gather(batch, axis, tiled=True)
                losses_B += self.recipe.rank_loss * pairwise_rank_loss(*batch[:2], *others)
            return jnp.sum(jnp.where(valid_B, losses_B, 0))

        loss, gradient = jax.value_and_grad(total_loss)(state.params)
        return Sums(gradient, loss, jnp.sum(valid_B, dtype=jnp.float32))

    def after_validation(self, state_S: TrainState, better_S: Bool[Array, " S"]) -> TrainState:
        """What follows from whether seeds were better on validation than ever before."""
        opt_state = after_validation(self.recipe, state_S.opt_state, better_S)
        return dataclasses.replace(state_S, opt_state=opt_state)

    def factors(self, params: Any) -> Factors | None:
        """See `Recipe.factors`; None if all parameters are changed alike."""
        recipe = self.recipe
        return recipe.factors(params) if recipe is not None and recipe.by_parameter else None

    def improve(
        self, state: TrainState, sums: Sums, factors: Factors | None = None
    ) -> tuple[TrainState, Float[Array, ""]]:
        """One optimiser step with the sums of a whole batch; the new state, and the mean loss.

        Args:
          factors: of parameters that are not in the model's own form.
        """
        gradient = jax.tree.map(lambda leaf: leaf / sums.count, sums.gradient)
        factors = factors or self.factors(state.params)
        more = {} if factors is None else {"factors": factors}
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies its integer step count
            updates, opt_state = self.optimizer.update(
                gradient, state.opt_state, state.params, **more
            )
        params = optax.apply_updates(state.params, updates)
        state = TrainState(params, state.fixed, opt_state, state.step + 1)
        return state, sums.loss / sums.count

    def over_devices(self, sums_S: Sums) -> Sums:
        """Adds up the sums of the devices' parts of a batch: the one exchange of a step."""
        if self.data_axis is None:
            return sums_S
        if self.platform == "tpu":  # which puts them into one exchange by itself
            return jax.lax.psum(sums_S, self.data_axis)
        # As one vector: separate arrays would each need an exchange.
        vectors_SxV = jax.vmap(lambda sums: ravel_pytree(sums)[0])(sums_S)
        split = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], sums_S))[1]
        return jax.vmap(split)(jax.lax.psum(vectors_SxV, self.data_axis))


def adam_cosine(learning_rate: float, total_steps: int) -> optax.GradientTransformation:
    """Adam (β 0.9, 0.999; ε 1e-8; no decay), learning rate from its peak to 0 in `total_steps`."""
    return Recipe(learning_rate).optimizer(total_steps)


def in_batches(rows_N: Int[np.ndarray, " N"], batch_size: int) -> Int[Array, "T B"]:
    """Rows in their order, the last batch filled up with -1."""
    padded = np.pad(rows_N, (0, -len(rows_N) % batch_size), constant_values=-1)
    return jnp.asarray(padded.reshape(-1, batch_size), jnp.int32)


def _over_batches(
    learner: Learner,
    function: Callable[[Any, Any, Any], Float[Array, "B ..."]],
    params_S: Any,
    fixed_S: Any,
    zoo_weights: Any,
    rows_TxB: Int[Array, "T B"],
) -> Float[Array, "S TB ..."]:
    """`function(params, fixed, weights_B)` of every seed, batch by batch, networks in order."""

    def one_batch(rows_B):
        def one_seed(zoo_weights, params, fixed):
            return function(params, fixed, learner.take(zoo_weights, rows_B))

        return learner.over_seeds(one_seed, zoo_weights, params_S, fixed_S)

    values_TxSxB = jax.lax.map(one_batch, rows_TxB)
    values_SxTxB = jnp.moveaxis(values_TxSxB, 1, 0)
    seeds, _, _, *rest = values_SxTxB.shape
    return values_SxTxB.reshape(seeds, -1, *rest)


def train_steps(
    learner: Learner,
    state_S: TrainState,
    losses_SxT: Float[Array, "S T"],
    zoo_weights: Any,
    targets_N: Array,
    rows_SxKxB: Int[Array, "S K B"],
    first: Int[Array, ""],
    start: Int[Array, ""],
    stop: Int[Array, ""],
) -> tuple[TrainState, Float[Array, "S T"]]:
    """Steps `start` to `stop` of an epoch, for all seeds at once and without the host.

    The bounds are traced, so that one compilation serves any stretch of an epoch: a resumed run
    goes through the very same program.

    Args:
      zoo_weights: stacked networks, at least those of the batches.
      rows_SxKxB: the batches of K steps of the epoch, -1 for padding; inside a `shard_map`, this
        device's part of them.
      first: the step that the first of those batches is for.
    """
    vectors = Vectors(learner, state_S) if learner.platform == "gpu" else None

    def one_seed(zoo_weights, state, rows_B):
        if vectors:
            state = vectors.part(state)
        targets_B = targets_N[jnp.maximum(rows_B, 0)]
        return learner.sums(state, learner.take(zoo_weights, rows_B), targets_B, rows_B >= 0)

    def body(t, carry):
        state_S, losses_SxT = carry
        rows_SxB = rows_SxKxB[:, t - first]
        sums_S = learner.over_devices(learner.over_seeds(one_seed, zoo_weights, state_S, rows_SxB))
        improve = vectors.improve if vectors else learner.improve
        state_S, losses_S = jax.vmap(improve)(state_S, sums_S)
        losses_SxT = jax.lax.dynamic_update_index_in_dim(losses_SxT, losses_S, t, 1)
        return state_S, losses_SxT

    if vectors:
        state_S = jax.vmap(vectors.join)(state_S)
    state_S, losses_SxT = jax.lax.fori_loop(start, stop, body, (state_S, losses_SxT))
    return jax.vmap(vectors.part)(state_S) if vectors else state_S, losses_SxT


def predict(
    learner: Learner, params_S: Any, fixed_S: Any, zoo_weights: Any, rows_TxB: Int[Array, "T B"]
) -> Float[Array, "S TB O"]:
    """Outputs of every seed's model for the networks at `rows_TxB`, batch by batch.

    Rows of -1 are padding, and their outputs are meaningless.
    """
    return _over_batches(learner, learner.outputs, params_S, fixed_S, zoo_weights, rows_TxB)


def choose_per_seed(first_S: Bool[Array, " S"], ours: Any, theirs: Any) -> Any:
    """Leaf by leaf, `ours` for the seeds where `first_S` is true, else `theirs`."""

    def choose(a, b):
        return jnp.where(first_S.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, ours, theirs)


def probes_are_fixed(state_S: TrainState) -> bool:
    """Whether the generator trains nothing, so that responses never change."""
    return not jax.tree.leaves(state_S.params.get("generator", {}))


def responses(
    learner: Learner, state_S: TrainState, zoo_weights: Any, rows_TxB: Int[Array, "T B"]
) -> Float[Array, "S TB P R"]:
    """What every seed's head reads of the networks at `rows_TxB`, batch by batch, now."""

    def respond(params, fixed, weights_B):
        model = nnx.merge(learner.graphdef, params, fixed)
        return model.head.answers(learner.spec, weights_B, model.generator())

    params_S, fixed_S = state_S.params, state_S.fixed
    return _over_batches(learner, respond, params_S, fixed_S, zoo_weights, rows_TxB)
