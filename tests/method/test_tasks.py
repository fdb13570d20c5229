"""Metrics on the host."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import kendalltau

from probegen_jax.errors import UserError
from probegen_jax.method.tasks import TASKS, accuracy, cross_entropy, kendall_tau, mean_over_runs


def test_cross_entropy_and_its_gradient_are_optaxs():
    logits = 5 * jax.random.normal(jax.random.key(0), (64, 10))
    logits = jnp.concatenate([logits, jnp.asarray([[1e4] + [0.0] * 8 + [-1e4]])])
    labels = jnp.arange(65) % 10
    theirs = optax.softmax_cross_entropy_with_integer_labels
    np.testing.assert_allclose(cross_entropy(logits, labels), theirs(logits, labels), rtol=1e-6)
    ours, expected = (
        jax.grad(lambda x, loss=loss: loss(x, labels).sum())(logits)
        for loss in (cross_entropy, theirs)
    )
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_accuracy_counts_the_largest_logit():
    outputs = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4], [5.0, -1.0]], np.float32)
    assert accuracy(outputs, np.array([1, 0, 0, 0])) == 0.75


def test_kendall_tau_is_scipys():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 20, 200).astype(np.float32)  # with ties
    outputs = (targets + rng.normal(size=200) * 5).astype(np.float32)[:, None]
    assert kendall_tau(outputs, targets) == kendalltau(outputs[:, 0], targets).statistic
    assert kendall_tau(targets[:, None], targets) == pytest.approx(1)
    assert kendall_tau(-targets[:, None], targets) == pytest.approx(-1)
    task = TASKS["regression"]
    assert (task.metric_name, task.metric) == ("kendall_tau", kendall_tau)


def test_predictions_that_order_nothing_score_zero():
    targets = np.arange(5, dtype=np.float32)
    assert math.isnan(kendalltau(np.ones(5), targets).statistic)
    assert kendall_tau(np.ones((5, 1), np.float32), targets) == 0


def test_predictions_that_are_not_finite_score_nan():
    targets = np.arange(3, dtype=np.float32)
    assert math.isnan(kendall_tau(np.array([[0.0], [np.nan], [1.0]], np.float32), targets))
    assert math.isnan(kendall_tau(np.full((3, 1), np.inf, np.float32), targets))


@pytest.mark.parametrize("number", [1, 4])
def test_equal_targets_have_no_order(number):
    with pytest.raises(UserError, match=f"all {number} have 0.5"):
        kendall_tau(np.arange(number)[:, None], np.full(number, 0.5))


def test_tau_within_runs():
    # Within each run the order is right, but the better run is predicted to be the worse.
    targets = np.array([0.5, 0.1, 0.6, 0.2, 0.7, 0.3])
    runs = np.array([1, 0, 1, 0, 1, 0])
    outputs = np.where(runs == 1, targets - 10, targets)[:, None]
    assert kendall_tau(outputs, targets) < 0
    assert mean_over_runs(kendall_tau, outputs, targets, runs) == pytest.approx(1)
    outputs = np.where(runs == 1, -targets, targets)[:, None]
    assert mean_over_runs(kendall_tau, outputs, targets, runs) == pytest.approx(0)


def test_runs_without_an_order_do_not_count():
    targets = np.array([0.5, 0.5, 0.1, 0.2, 0.9])
    runs = np.array([0, 0, 1, 1, 2])
    outputs = targets[:, None]
    assert mean_over_runs(kendall_tau, outputs, targets, runs) == pytest.approx(1)
    # A constant prediction counts, as 0.
    assert mean_over_runs(kendall_tau, np.ones((5, 1)), targets, runs) == 0
    assert mean_over_runs(kendall_tau, outputs[:2], targets[:2], runs[:2]) is None


def test_runs_may_be_named():
    targets = np.array([0.1, 0.2, 0.3, 0.4])
    runs = np.array(["b", "a", "b", "a"])
    assert mean_over_runs(kendall_tau, targets[:, None], targets, runs) == pytest.approx(1)
