import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from probegen_jax.method import learning, tasks
from probegen_jax.method.learning import adam_cosine
from probegen_jax.method.model import make_model
from probegen_jax.networks.siren import SirenSpec

SPEC = SirenSpec(hidden=(8,))
NUM_NETWORKS, BATCH = 22, 5


SETTINGS = {
    "num_probes": 4,
    "latent_dim": 3,
    "generator_depth": 2,
    "head_width": 8,
    "head_depth": 2,
}


@functools.cache
def make_learner(method="probegen"):
    def model(key):
        return make_model(SPEC, SETTINGS | {"method": method}, 3, rngs=nnx.Rngs(params=key))

    return learning.Learner(model, SPEC, tasks.cross_entropy, adam_cosine(1e-2, 300))


@pytest.fixture(scope="module")
def zoo():
    weights = jax.vmap(SPEC.init)(jax.random.split(jax.random.key(0), NUM_NETWORKS))
    return weights, jnp.arange(NUM_NETWORKS, dtype=jnp.int32) % 3


def seed_keys(*seeds):
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def init(learner, *seeds):
    return jax.jit(learner.init)(seed_keys(*seeds))


def test_padding_neither_counts_nor_moves_anything(zoo):
    weights, targets = zoo
    learner = make_learner()
    state = jax.tree.map(lambda leaf: leaf[0], init(learner, 0))
    rows = jnp.asarray([4, 9, 2])
    update = jax.jit(lambda *args: learner.improve(args[0], learner.sums(*args)))
    whole, loss = update(state, SPEC.take(weights, rows), targets[rows], jnp.ones(3, bool))
    padded_rows = jnp.asarray([4, 9, 2, 0, 0])
    valid = jnp.asarray([True, True, True, False, False])
    padded, padded_loss = update(
        state, SPEC.take(weights, padded_rows), targets[padded_rows], valid
    )
    np.testing.assert_allclose(loss, padded_loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(padded.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@functools.cache
def program(learner):
    return jax.jit(lambda *args: learning.train_steps(learner, *args))


predict = jax.jit(learning.predict, static_argnums=0)


def run_epoch(learner, keys, zoo, stretches):
    weights, targets = zoo
    state = jax.jit(learner.init)(keys)
    rows_SxTxB = jax.jit(jax.vmap(epoch_rows))(keys)
    run = program(learner)
    losses_SxT = jnp.zeros(rows_SxTxB.shape[:2])
    for bounds in stretches:
        bounds = map(jnp.int32, (0, *bounds))
        state, losses_SxT = run(state, losses_SxT, weights, targets, rows_SxTxB, *bounds)
    return state, losses_SxT


def epoch_rows(key):
    shuffled = jax.random.permutation(key, jnp.arange(NUM_NETWORKS, dtype=jnp.int32))
    padding = -NUM_NETWORKS % BATCH
    return jnp.pad(shuffled, (0, padding), constant_values=-1).reshape(-1, BATCH)


def test_an_epoch_in_stretches_is_the_same_bit_for_bit(zoo):
    learner = make_learner()
    keys = seed_keys(0, 1)
    whole, whole_losses = run_epoch(learner, keys, zoo, [(0, 5)])
    parts, parts_losses = run_epoch(learner, keys, zoo, [(0, 2), (2, 3), (3, 5)])
    np.testing.assert_array_equal(whole_losses, parts_losses)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), whole.params, parts.params)
    )


@pytest.mark.parametrize("method", ["probegen", "uniform"])
def test_parameters_as_one_vector_train_the_same_bit_for_bit(zoo, method):
    learner, keys = make_learner(method), seed_keys(0, 1)
    expected = run_epoch(learner, keys, zoo, [(0, 5)])
    for_gpu = dataclasses.replace(learner, platform="gpu")
    found = run_epoch(for_gpu, keys, zoo, [(0, 2), (2, 5)])
    # The same tree, too: checkpoints move between devices of all kinds.
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_seed_among_others_trains_as_it_does_alone(zoo, in_turn):
    learner = dataclasses.replace(make_learner(), seeds_in_turn=in_turn)
    together, losses_together = run_epoch(learner, seed_keys(3, 4, 5), zoo, [(0, 5)])
    alone, losses_alone = run_epoch(learner, seed_keys(4), zoo, [(0, 5)])
    np.testing.assert_allclose(losses_together[1], losses_alone[0], rtol=1e-4)
    for a, b in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a[1], b[0], atol=1e-4)


def test_training_lowers_the_loss_and_leaves_fixed_probes_alone(zoo):
    weights, targets = zoo
    learner = make_learner("uniform")
    run, shuffled = program(learner), jax.jit(epoch_rows)
    first = state = init(learner, 0)
    for epoch in range(60):
        rows = shuffled(jax.random.key(epoch))[None]
        bounds = map(jnp.int32, (0, 0, 5))
        state, losses_SxT = run(state, jnp.zeros((1, 5)), weights, targets, rows, *bounds)
        if not epoch:
            loss_before = losses_SxT.mean()
    assert losses_SxT.mean() < 0.9 * loss_before
    np.testing.assert_array_equal(learner.probes(first), learner.probes(state))
    assert state.step[0] == 300


def test_predictions_are_those_of_the_model_in_the_order_asked(zoo):
    weights, _ = zoo
    learner = make_learner()
    state = init(learner, 0, 1)
    rows = jnp.asarray([[7, 1, 9], [0, 21, -1]])
    outputs = predict(learner, state.params, state.fixed, weights, rows)
    assert outputs.shape == (2, 6, 3)
    one = jax.tree.map(lambda leaf: leaf[1], (state.params, state.fixed))
    some = SPEC.take(weights, jnp.asarray([7, 1, 9, 0, 21]))
    direct = jax.jit(learner.outputs)(*one, some)
    np.testing.assert_allclose(outputs[1, :5], direct, atol=1e-6)


def test_fixed_probes_train_the_same_from_responses_computed_once(zoo):
    """The same batches, losses, parameters and predictions as asking every network every time."""
    weights, targets = zoo
    learner = make_learner("uniform")
    keys = seed_keys(0, 1)
    asked, asked_losses = run_epoch(learner, keys, zoo, [(0, 5)])

    state = init(learner, 0, 1)
    assert learning.probes_are_fixed(state)
    assert not learning.probes_are_fixed(init(make_learner("vanilla"), 0))
    every_row = learning.in_batches(np.arange(NUM_NETWORKS), BATCH)
    responses = jax.jit(learning.responses, static_argnums=0)(learner, state, weights, every_row)
    assert responses.shape == (2, 25, 4, SPEC.response_dim)
    assert not np.allclose(responses[0, :22], responses[1, :22])  # each seed has its own probes
    once = dataclasses.replace(learner, from_responses=True)
    answered, answered_losses = run_epoch(once, keys, (responses, targets), [(0, 2), (2, 5)])
    np.testing.assert_allclose(asked_losses, answered_losses, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(asked.params), jax.tree.leaves(answered.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    rows = jnp.asarray([[7, 1, 9], [0, 21, -1]])
    np.testing.assert_allclose(
        predict(learner, asked.params, asked.fixed, weights, rows)[:, :5],
        predict(once, asked.params, asked.fixed, responses, rows)[:, :5],
        atol=1e-6,
    )


def test_choose_per_seed():
    ours, theirs = {"a": jnp.ones((2, 3))}, {"a": jnp.zeros((2, 3))}
    chosen = learning.choose_per_seed(jnp.asarray([False, True]), ours, theirs)
    np.testing.assert_array_equal(chosen["a"], [[0, 0, 0], [1, 1, 1]])


def test_losses_by_hand():
    outputs = jnp.asarray([[0.0, 0.0], [2.0, 0.0]])
    np.testing.assert_allclose(
        tasks.cross_entropy(outputs, jnp.asarray([1, 0])),
        [np.log(2), np.log(1 + np.exp(-2))],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        tasks.squared_error(jnp.asarray([[0.5], [0.1]]), jnp.asarray([0.0, 0.1])), [0.25, 0]
    )
