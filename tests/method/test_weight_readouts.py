"""Readouts of weights: what they are made of, and that trees are scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl
from flax import nnx
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from probegen_jax.errors import UserError
from probegen_jax.method.readouts import trees
from probegen_jax.method.readouts.base import Sizes
from probegen_jax.method.readouts.registry import name_in
from probegen_jax.method.readouts.trees import StatisticsTrees
from probegen_jax.method.readouts.weights import Flat, Statistics
from probegen_jax.method.tasks import Scale
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.siren import SirenSpec

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.standard_normal((150, 4)).astype(np.float32)
HARD = np.where(VALUES[:, 0] * VALUES[:, 1] > 0, 1, 0) + (VALUES[:, 2] > 1)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(trees, "ROUNDS", 10)


def run(params, values, outputs):
    graphdef, _ = nnx.split(StatisticsTrees(outputs))
    model = nnx.merge(graphdef, nnx.State(jax.tree.map(nnx.Param, params)))
    return np.asarray(jax.jit(lambda model, x: model(x))(model, jnp.asarray(values)[:, None]))


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_trees_predict_as_scikit_learn_does(outputs):
    targets = HARD + 0.1 * VALUES[:, 3] if outputs == 1 else HARD % outputs
    kind = HistGradientBoostingRegressor if outputs == 1 else HistGradientBoostingClassifier
    theirs = kind(early_stopping=False, max_iter=trees.ROUNDS).fit(VALUES, targets)
    ours = StatisticsTrees.fit(VALUES, targets.astype(np.float32 if outputs == 1 else int), outputs)
    # At thresholds, too: values that training has seen, and others.
    for values in (VALUES, RANDOM.standard_normal((100, 4)).astype(np.float32)):
        found = run(ours, values, outputs)
        if outputs == 1:
            np.testing.assert_allclose(found[:, 0], theirs.predict(values), atol=1e-5)
        else:
            shares = jax.nn.softmax(found, axis=1)
            np.testing.assert_allclose(shares, theirs.predict_proba(values), atol=1e-5)
    changed = StatisticsTrees.predicting_values(ours, Scale(2.0, 3.0))
    np.testing.assert_allclose(
        run(changed, VALUES, outputs), 3 * run(ours, VALUES, outputs) + 2, rtol=1e-4, atol=1e-4
    )


def test_trees_are_fitted_by_one_thread(monkeypatch):
    threads, fit = [], HistGradientBoostingRegressor.fit

    def seen(*args):
        pools = threadpoolctl.threadpool_info()
        threads.extend(pool["num_threads"] for pool in pools if pool["user_api"] == "openmp")
        return fit(*args)

    monkeypatch.setattr(HistGradientBoostingRegressor, "fit", seen)
    StatisticsTrees.fit(VALUES, VALUES[:, 0], 1)
    assert set(threads) == {1}


@pytest.mark.parametrize("seen", [[0, 2], [0, 1, 3]])
def test_classes_that_are_not_trained_on_are_never_predicted(seen):
    targets = np.asarray(seen)[HARD % len(seen)]
    found = run(StatisticsTrees.fit(VALUES, targets, 5), VALUES, 5)
    assert set(np.argmax(found, axis=1)) <= set(seen)
    assert np.mean(np.argmax(found, axis=1) == targets) > 0.8


def test_trees_take_one_target():
    with pytest.raises(
        UserError, match=r"one target of a network, .* use --config.statnn_head=mlp"
    ):
        StatisticsTrees.fit(VALUES, np.zeros((150, 3), np.int8), 3)


@pytest.mark.parametrize("kind", [Flat, Statistics])
def test_values_are_standardised_and_stay_so(kind):
    spec = SirenSpec((3,))
    weights = jax.vmap(spec.init)(jax.random.split(jax.random.key(0), 50))
    weights[0]["bias"] = weights[0]["bias"] + 7  # alike in all networks
    head = kind.make(spec, Sizes(0, 8, 2, 3), rngs=nnx.Rngs(0))
    answers = kind.answers(spec, weights, None)
    assert answers.shape == (50, 1, kind.num_values(spec, Sizes(0, 8, 2, 3)))
    mean, std = kind.spread(np.asarray(answers[:, 0]))
    head.standardise(mean, std)
    scaled = (answers[:, 0] - mean[None]) / std[None]
    np.testing.assert_allclose(head(answers), head.head(scaled[:, None]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0)[std != 1], 1, rtol=1e-3)
    assert (std == 1).any() and (std != 1).any()
    gradients = nnx.grad(lambda head: jnp.sum(head(answers) ** 2))(head)
    assert not np.any(gradients["mean"][...]) and not np.any(gradients["std"][...])
    assert np.any(gradients["head"]["layers"][0]["kernel"][...])


def test_networks_that_do_not_say_what_arrays_they_have_are_named():
    class Own(NetworkSpec):
        probe_shape, response_dim, apply = (2,), 1, None

    with pytest.raises(UserError, match="networks like Own do not say what arrays they have"):
        Flat.num_values(Own(), Sizes(0, 8, 2, 3))


def test_a_method_may_have_a_readout_of_its_own():
    asked = {"readout": "hidden", "statnn_head": "mlp"}
    assert name_in(asked | {"method": "statnn"}) == "statnn_mlp"
    assert name_in(asked | {"method": "flat"}) == "flat"
    assert name_in(asked | {"method": "probegen"}) == "hidden"
    assert name_in({"method": "gone"}) == "outputs"
