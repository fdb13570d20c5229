"""The optimiser's settings, each against what it is by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_learning import (
    BATCH,
    NUM_NETWORKS,
    SETTINGS,
    SPEC,
    init,
    predict,
    run_epoch,
    seed_keys,
)

from probegen_jax.errors import UserError
from probegen_jax.method import learning, tasks
from probegen_jax.method.model import make_model
from probegen_jax.method.readouts.base import Readout
from probegen_jax.method.readouts.registry import READOUTS
from probegen_jax.method.recipe import Recipe, after_validation
from probegen_jax.trees import named


@pytest.fixture(scope="module")
def zoo():
    weights = jax.vmap(SPEC.init)(jax.random.split(jax.random.key(0), NUM_NETWORKS))
    return weights, jnp.arange(NUM_NETWORKS, dtype=jnp.int32) % 3


ALL = {
    "probe_learning_rate": 1e-3,
    "weight_decay": 0.1,
    "label_smoothing": 0.1,
    "dropout": 0.25,
    "ema": 0.9,
}


def make_learner(**levers):
    settings = SETTINGS | {"method": "probegen", "learning_rate": 1e-2} | levers
    recipe = Recipe.of(settings)

    def model(key):
        return make_model(SPEC, settings, 3, rngs=nnx.Rngs(params=key))

    return learning.Learner(
        model,
        SPEC,
        recipe.loss(tasks.cross_entropy),
        recipe.optimizer(300),
        recipe=recipe,
        noisy="dropout" in levers,
    )


@functools.cache
def improve(learner):
    """A step, as one program."""
    return jax.jit(lambda state, *batch: learner.improve(state, learner.sums(state, *batch))[0])


def step(learner, zoo, state=None):
    """One step of one seed; the state before, and that after."""
    weights, targets = zoo
    before = state or jax.tree.map(lambda leaf: leaf[0], init(learner, 0))
    batch = SPEC.take(weights, jnp.arange(BATCH)), targets[:BATCH], jnp.ones(BATCH, bool)
    return before, improve(learner)(before, *batch)


def changes(learner, zoo):
    before, after = step(learner, zoo)
    return before.params, jax.tree.map(lambda a, b: a - b, after.params, before.params)


def test_probes_have_a_learning_rate_of_their_own_and_kernels_of_the_head_decay(zoo):
    _, plain = changes(make_learner(), zoo)
    params, found = changes(make_learner(probe_learning_rate=1e-3, weight_decay=0.5), zoo)

    def expected(change, param):
        return change - (5e-3 * param if param.ndim > 1 else 0)

    wanted = {
        "generator": jax.tree.map(lambda change: change / 10, plain["generator"]),
        "head": jax.tree.map(expected, plain["head"], params["head"]),
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted)


def test_free_probes_decay_too(zoo):
    _, plain = changes(make_learner(method="vanilla"), zoo)
    params, found = changes(make_learner(method="vanilla", probe_weight_decay=0.5), zoo)
    probes = plain["generator"]["probes"] - 5e-3 * params["generator"]["probes"]
    np.testing.assert_allclose(found["generator"]["probes"], probes, atol=1e-6)
    assert np.abs(probes - plain["generator"]["probes"]).max() > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), found["head"], plain["head"]
    )


def test_probes_may_drop_a_share_of_their_values_in_training(zoo):
    """The same values for all networks of a batch, wherever these lie; none when predicting."""
    learner, plain = make_learner(probe_dropout=0.5), make_learner()
    states, without = init(learner, 0), init(plain, 0)
    jax.tree.map(np.testing.assert_array_equal, states.params, without.params)
    rows = jnp.asarray([[7, 1, 9]])
    outputs = [
        predict(each, state.params, state.fixed, zoo[0], rows)
        for each, state in ((learner, states), (plain, without))
    ]
    np.testing.assert_array_equal(*outputs)
    one = jax.tree.map(lambda leaf: leaf[0], (states.params, states.fixed))
    weights = learner.take(zoo[0], jnp.asarray([3, 3, 4]))
    outputs = jax.jit(learner.outputs)
    first, again, later = (
        np.asarray(outputs(*one, weights, learning.Noise(jnp.int32(step), jnp.int32(place))))
        for step, place in ((0, 0), (0, 8), (1, 0))
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first[0], first[1], rtol=1e-5)
    assert not np.allclose(first, later, atol=1e-6)


def test_of_a_hidden_readout_the_factors_of_kernels_decay():
    learner = make_learner(readout="hidden", weight_decay=0.5)
    params = jax.eval_shape(learner.init, seed_keys(0)).params
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
    found = learner.factors(params)
    assert set(jax.tree.leaves(found.rate)) == {1.0}
    decaying = {name.rpartition(".")[2] for name, value in named(found.decay).items() if value}
    assert decaying == {"kernel", "left", "right"}
    assert not any(jax.tree.leaves(found.decay["generator"]))


def test_smoothed_loss_by_hand():
    outputs, targets = jnp.asarray([[0.3, -1.0, 2.0], [1.0, 1.0, -0.5]]), jnp.asarray([2, 0])
    shares = np.full((2, 3), 0.3 / 3)
    shares[[0, 1], [2, 0]] += 0.7
    expected = -(shares * np.asarray(jax.nn.log_softmax(outputs))).sum(axis=1)
    found = tasks.smoothed_cross_entropy(outputs, targets, smoothing=0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_average_forgets_the_start_and_changes_no_step(zoo):
    plain, averaging = make_learner(), make_learner(ema=0.9)
    state, average, before = None, None, None
    for t in range(3):
        before, state = step(averaging, zoo, state)
        kept = min(0.9, (1 + t) / (10 + t))
        if average is None:
            average = before.params
        average = jax.tree.map(lambda a, p, k=kept: k * a + (1 - k) * p, average, state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), averaging.improved(state), average
    )
    other = None
    for _ in range(3):
        _, other = step(plain, zoo, other)
    jax.tree.map(np.testing.assert_array_equal, state.params, other.params)
    assert plain.improved(other) is other.params


def rates(recipe, steps, better_TxS=()):
    """The learning rate of every step, with a validation after each."""
    optimizer = recipe.optimizer(100)
    params = {"head": jnp.zeros(1)}
    state, found = optimizer.init(params), []
    for better_S in better_TxS or [None] * steps:
        more = {"factors": recipe.factors(params)} if recipe.by_parameter else {}
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update({"head": jnp.ones(1)}, state, params, **more)
        found.append(-float(updates["head"][0]))
        if better_S is not None:
            state = after_validation(recipe, state, jnp.asarray(better_S))
    return found


def test_on_a_plateau_the_learning_rate_falls_to_the_floor():
    recipe = Recipe(
        8.0, schedule="plateau", plateau_factor=0.25, plateau_patience=1, learning_rate_floor=0.3
    )
    better = [True, False, True, False, False, False, True, False, False, False, False]
    expected = [8, 8, 8, 8, 8, 2, 2, 2, 2, 0.5, 0.5]
    np.testing.assert_allclose(rates(recipe, 11, better), expected, rtol=1e-4)
    expected = [8, 8, 2, 2, 0.5, 0.5, 0.3]
    np.testing.assert_allclose(rates(recipe, 7, [False] * 7), expected, rtol=1e-4)


def test_each_seed_has_a_plateau_of_its_own():
    recipe = Recipe(1.0, schedule="plateau", plateau_patience=0)
    state = jax.vmap(recipe.optimizer(10).init)({"head": jnp.zeros((3, 2))})
    for better_S in ([True, False, False], [True, True, False]):
        state = after_validation(recipe, state, jnp.asarray(better_S))
    assert state[-1].reductions.tolist() == [0, 1, 2]


def test_learning_rates_rise_in_the_warmup():
    cosine = [1e-2 * (1 + np.cos(np.pi * t / 100)) / 2 for t in range(6)]
    np.testing.assert_allclose(rates(Recipe(1e-2), 6), cosine, rtol=1e-4)
    warm = [rate * min(1, (t + 1) / 4) for t, rate in enumerate(cosine)]
    np.testing.assert_allclose(rates(Recipe(1e-2, warmup_steps=4), 6), warm, rtol=1e-4)
    found = rates(Recipe(1e-2, warmup_steps=4, schedule="plateau"), 6)
    np.testing.assert_allclose(found, [2.5e-3, 5e-3, 7.5e-3, 1e-2, 1e-2, 1e-2], rtol=1e-4)


def test_what_is_told_of_a_plateau_is_the_rate_of_the_last_step():
    """Of each seed, also in the warmup, and after the floor."""
    recipe = Recipe(
        1.0, schedule="plateau", plateau_patience=0, learning_rate_floor=0.2, warmup_steps=2
    )
    optimizer = recipe.optimizer(10)
    params = {"head": jnp.zeros((2, 1))}
    update = jax.vmap(lambda gradient, state: optimizer.update(gradient, state))
    state, told, made = jax.vmap(optimizer.init)(params), [], []
    for _ in range(6):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update({"head": jnp.ones((2, 1))}, state)
        made.append(-updates["head"][:, 0])
        told.append(recipe.last_rate(state))
        state = after_validation(recipe, state, jnp.asarray([False, True]))
    np.testing.assert_allclose(told, made, rtol=1e-4)
    falling = [[0.5, 0.5], [0.5, 1], [0.25, 1], [0.2, 1], [0.2, 1], [0.2, 1]]
    np.testing.assert_allclose(told, falling, rtol=1e-6)


def test_rank_loss_by_hand():
    outputs, targets = np.float32([0.2, -1.0, 0.9, 0.4]), np.float32([1.0, 2.0, 1.0, 0.5])
    valid = np.array([True, True, True, False])
    expected = []
    for i in range(4):
        losses = [
            np.log1p(np.exp(-np.sign(targets[i] - targets[j]) * (outputs[i] - outputs[j])))
            for j in range(4)
            if valid[j] and targets[i] != targets[j]
        ]
        expected.append(np.mean(losses))
    batch = [jnp.asarray(each) for each in (outputs, targets, outputs, targets, valid)]
    np.testing.assert_allclose(tasks.pairwise_rank_loss(*batch), expected, rtol=1e-5)
    alike = tasks.pairwise_rank_loss(batch[0], jnp.ones(4), batch[0], jnp.ones(4), batch[4])
    np.testing.assert_array_equal(alike, np.zeros(4))


def test_dropout_drops_its_share_by_seed_step_and_place(zoo):
    learner = make_learner(dropout=0.25)
    plain = init(make_learner(), 0, 1)
    states = init(learner, 0, 1)
    jax.tree.map(np.testing.assert_array_equal, states.params, plain.params)
    model = nnx.merge(
        learner.graphdef, *(jax.tree.map(lambda a: a[0], (states.params, states.fixed)))
    )
    ones = jnp.ones((64, 500))
    noise = learning.Noise(3, 0)
    dropped = np.asarray(model.head.dropout(ones, noise, 0))
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert abs(np.mean(dropped == 0) - 0.25) < 0.01
    # The second half of a batch, as a second device has it.
    half = model.head.dropout(ones[:32], learning.Noise(3, 32), 0)
    np.testing.assert_array_equal(half, dropped[32:])
    for others in (
        model.head.dropout(ones, noise, 1),
        model.head.dropout(ones, learning.Noise(4, 0), 0),
    ):
        assert np.mean(np.asarray(others) != dropped) > 0.3
    keys = jax.tree.leaves(states.fixed)
    assert len(keys) == 1 and not np.array_equal(keys[0][0], keys[0][1])
    # It is of training alone.
    rows = jnp.asarray([[7, 1, 9]])
    outputs = [
        predict(each, state.params, state.fixed, zoo[0], rows)
        for each, state in ((learner, states), (make_learner(), plain))
    ]
    np.testing.assert_array_equal(*outputs)


class Plain(Readout):
    """One of a user's, who knows nothing of dropout."""

    def __init__(self, sizes, *, rngs):
        self.last = nnx.Linear(sizes.num_probes, sizes.outputs, rngs=rngs)

    @classmethod
    def make(cls, spec, sizes, *, rngs):
        return cls(sizes, rngs=rngs)

    @staticmethod
    def last_layer(params):
        return ("last",)

    def __call__(self, answers):
        return self.last(answers[..., 0])


@pytest.mark.parametrize("changes", [{"head_depth": 1}, {"readout": "plain"}])
def test_a_readout_without_room_for_dropout_is_told(changes, monkeypatch):
    monkeypatch.setitem(READOUTS, "plain", f"{__name__}:Plain")
    jax.eval_shape(make_learner(**changes).init, seed_keys(0))
    with pytest.raises(UserError, match=r"dropout is 0.5, but the readout .* --config.dropout=0"):
        jax.eval_shape(make_learner(dropout=0.5, **changes).init, seed_keys(0))


@pytest.mark.slow
def test_all_of_them_train_the_same_on_a_gpu_and_bit_for_bit_in_stretches(zoo):
    learner, keys = make_learner(**ALL, schedule="plateau"), seed_keys(0, 1)
    expected = run_epoch(learner, keys, zoo, [(0, 5)])
    assert not np.allclose(*np.asarray(expected[1]))
    for_gpu = dataclasses.replace(learner, platform="gpu")
    found = run_epoch(for_gpu, keys, zoo, [(0, 2), (2, 5)])
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    found = run_epoch(learner, keys, zoo, [(0, 1), (1, 5)])
    jax.tree.map(np.testing.assert_array_equal, found, expected)
