"""What depends on the kind of target: the loss, the metric, and their names in reports.

A new kind of target is an entry of `TASKS`, by the name that a zoo's `task` gives it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from probegen_jax.errors import UserError

# Losses are per network: a step weighs and averages them, so that a padded batch counts right.
Loss = Callable[[jax.Array, jax.Array], jax.Array]
# Metrics are computed on the host, once per evaluation, of a whole split; larger is better.
Metric = Callable[[np.ndarray, np.ndarray], float]


def cross_entropy(outputs: Float[Array, "B O"], targets: Int[Array, " B"]) -> Float[Array, " B"]:
    """Softmax cross-entropy of logits against class indices."""
    # The logit of the class by a sum, not by its place: a place costs a gather and a scatter.
    is_class_BxO = jnp.arange(outputs.shape[1])[None] == targets[:, None]
    logits = jnp.sum(jnp.where(is_class_BxO, outputs, 0), axis=1)
    return jax.nn.logsumexp(outputs, axis=1) - logits


def smoothed_cross_entropy(
    outputs: Float[Array, "B O"], targets: Int[Array, " B"], smoothing: float
) -> Float[Array, " B"]:
    """Cross-entropy of logits against the class, but for a share that all classes have evenly."""
    of_all = jax.nn.logsumexp(outputs, axis=1) - jnp.mean(outputs, axis=1)
    return (1 - smoothing) * cross_entropy(outputs, targets) + smoothing * of_all


def squared_error(outputs: Float[Array, "B 1"], targets: Float[Array, " B"]) -> Float[Array, " B"]:
    """Squared error of a single output."""
    return jnp.square(outputs[:, 0] - targets)


def binary_cross_entropy(
    outputs: Float[Array, "B O"], targets: Integer[Array, "B O"]
) -> Float[Array, " B"]:
    """Sigmoid cross-entropy of a logit for each class against 0 or 1, the mean over classes."""
    # Not softplus less a product, which for a certain and right output is a difference of equals.
    signs_BxO = jnp.where(targets != 0, -outputs, outputs)
    return jnp.mean(jax.nn.softplus(signs_BxO), axis=1)


def pairwise_rank_loss(
    outputs_B: Float[Array, " B"],
    targets_B: Float[Array, " B"],
    others_C: Float[Array, " C"],
    other_targets_C: Float[Array, " C"],
    valid_C: Bool[Array, " C"],
) -> Float[Array, " B"]:
    """How far networks are from the right order, as RankNet (Burges et al., 2005) measures it.

    Of each network, the mean of log(1 + exp(-d)) over the others with another target, where d is by
    how much the one with the larger target has the larger output; 0 where there are none.
    """
    order_BxC = jnp.sign(targets_B[:, None] - other_targets_C[None])
    counts_BxC = (order_BxC != 0) & valid_C[None]
    ahead_BxC = order_BxC * (outputs_B[:, None] - others_C[None])
    losses_BxC = jnp.where(counts_BxC, jax.nn.softplus(-ahead_BxC), 0)
    number_B = jnp.sum(counts_BxC, axis=1, dtype=jnp.float32)
    return jnp.sum(losses_BxC, axis=1) / jnp.maximum(number_B, 1)


def accuracy(outputs_NxO: np.ndarray, targets_N: np.ndarray) -> float:
    """Share of networks whose largest logit is their class, in [0, 1]."""
    return float(np.mean(np.argmax(outputs_NxO, axis=-1) == targets_N))


def mean_average_precision(outputs_NxO: np.ndarray, targets_NxO: np.ndarray) -> float:
    """Average precision of each class, the mean over classes that some network has, in [0, 1].

    As scikit-learn's `average_precision_score(average="macro")`, which gives 0 for a class that no
    network has; here such classes are left out. Where an output is not finite, nan.

    Raises:
      UserError: no network has any class.
    """
    if not np.all(np.isfinite(outputs_NxO)):
        return float("nan")
    precisions_O = average_precisions(outputs_NxO, targets_NxO)
    if np.all(np.isnan(precisions_O)):
        raise UserError(
            f"mean average precision needs networks with classes, but all {len(targets_NxO)} have "
            "none; use a larger split"
        )
    return float(np.nanmean(precisions_O))


def average_precisions(outputs_NxO: np.ndarray, targets_NxO: np.ndarray) -> Float[np.ndarray, " O"]:
    """Average precision of each class; nan of a class that no network has."""
    found = np.full(targets_NxO.shape[1], np.nan)
    for place in np.flatnonzero(targets_NxO.any(axis=0)):
        order = np.argsort(-outputs_NxO[:, place], kind="stable")
        scores_N, hits_N = outputs_NxO[order, place], np.cumsum(targets_NxO[order, place] != 0)
        # Networks of equal outputs have no order: they come in together.
        ends = np.append(np.flatnonzero(scores_N[1:] != scores_N[:-1]), len(scores_N) - 1)
        gained = np.diff(hits_N[ends], prepend=0) / hits_N[-1]
        found[place] = np.sum(gained * hits_N[ends] / (ends + 1))
    return found


def label_accuracy(outputs_NxO: np.ndarray, targets_NxO: np.ndarray) -> float:
    """Share of networks and classes of which it is said rightly whether one has the other."""
    return float(np.mean((outputs_NxO > 0) == (targets_NxO != 0)))


def kendall_tau(outputs_Nx1: np.ndarray, targets_N: np.ndarray) -> float:
    """Kendall's τ-b between predictions and targets, in [-1, 1], as `scipy.stats.kendalltau`.

    Returns:
      τ. Where all predictions are equal, and SciPy says nan, 0: they order nothing, which is worth
      as much as a random order. Where a prediction is not finite, nan.

    Raises:
      UserError: all targets are equal (or there is one), so that there is no order to predict.
    """
    from scipy.stats import kendalltau  # slow to import, and only regressions need it

    if np.all(targets_N == targets_N[0]):
        raise UserError(
            f"Kendall's τ needs networks with different targets, but all {len(targets_N)} have "
            f"{targets_N[0]}; use a larger split"
        )
    predictions_N = outputs_Nx1[:, 0]
    if not np.all(np.isfinite(predictions_N)):
        return float("nan")
    if np.all(predictions_N == predictions_N[0]):
        return 0.0
    return float(kendalltau(predictions_N, targets_N).statistic)


def mean_over_runs(
    metric: Metric, outputs_NxO: np.ndarray, targets_N: np.ndarray, runs_N: np.ndarray
) -> float | None:
    """A metric within each run, then averaged: what is left when runs need not be told apart.

    In a zoo of many checkpoints of few runs, a score over all networks mostly says which run is
    the better one.

    Returns:
      The mean over runs that hold networks with different targets; None if there is no such run.
    """
    scores = []
    order = np.argsort(runs_N, kind="stable")
    sorted_N = runs_N[order]
    starts = np.flatnonzero(sorted_N[1:] != sorted_N[:-1]) + 1
    for rows in np.split(order, starts):
        if np.any(targets_N[rows] != targets_N[rows[0]]):
            scores.append(metric(outputs_NxO[rows], targets_N[rows]))
    return float(np.mean(scores)) if scores else None


@dataclasses.dataclass(frozen=True)
class Scale:
    """How values are learnt: less their mean, in units of their standard deviation.

    Kendall's τ knows no unit, and with this training knows none either.
    """

    mean: float
    std: float

    @classmethod
    def of(cls, targets_N: np.ndarray) -> "Scale":
        """That of training targets."""
        exact_N = np.asarray(targets_N, np.float64)
        return cls(float(exact_N.mean()), float(exact_N.std()))

    def learnt(self, targets_N: np.ndarray) -> Float[np.ndarray, " N"]:
        """Targets as the loss compares outputs with them, float32."""
        return ((np.asarray(targets_N, np.float64) - self.mean) / self.std).astype(np.float32)

    def values(self, outputs: np.ndarray) -> np.ndarray:
        """What outputs stand for; float64, so that no two of them become one."""
        return np.asarray(outputs, np.float64) * self.std + self.mean


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of target.

    Attributes:
      loss: of every network, from the outputs and targets of a batch.
      metric: of all outputs and targets of a split.
      metric_name: in `result.json` and logs.
      metric_title: in texts.
      classes: whether outputs are logits of classes; else the first output is the value itself.
      goal: what is predicted, with `{num_outputs}` for the number of outputs.
      activation: makes probabilities of logits; None of values.
      several: whether a network may have several of the classes, or none.
      beside: what else is told of all outputs and targets of a split, by name.
    """

    loss: Loss
    metric: Metric
    metric_name: str
    metric_title: str
    classes: bool
    goal: str
    activation: Callable[[Any], jax.Array] | None = None
    several: bool = False
    beside: Mapping[str, Metric] = dataclasses.field(default_factory=dict)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """What outputs (..., O) stand for: probabilities of classes, or the values themselves."""
        return outputs if self.activation is None else np.asarray(self.activation(outputs))

    def ensemble(
        self,
        outputs_SxNxO: Float[np.ndarray, "S N O"],
        groups_N: Int[np.ndarray, " N"] | None = None,
    ) -> Float[np.ndarray, "_ O"]:
        """The mean prediction over seeds, so that the metrics can take it in place of outputs.

        Args:
          groups_N: numbers of groups, from 0; the mean is also over the networks of each then, and
            there is a row for each group.
        """
        mean_NxO = np.asarray(self.predictions(outputs_SxNxO), np.float64).mean(axis=0)
        if groups_N is not None:
            sums_GxO = np.zeros((groups_N.max() + 1, mean_NxO.shape[1]))
            np.add.at(sums_GxO, groups_N, mean_NxO)
            mean_NxO = sums_GxO / np.bincount(groups_N)[:, None]
        return mean_NxO - 0.5 if self.several else mean_NxO  # above 0: more likely than not


TASKS: dict[str, Task] = {
    "classification": Task(
        cross_entropy,
        accuracy,
        metric_name="accuracy",
        metric_title="accuracy",
        classes=True,
        goal="which of {num_outputs} classes a network belongs to",
        activation=jax.nn.softmax,
    ),
    "multilabel": Task(
        binary_cross_entropy,
        mean_average_precision,
        metric_name="mean_average_precision",
        metric_title="mean average precision",
        classes=True,
        goal="which of {num_outputs} classes a network has, maybe several or none",
        activation=jax.nn.sigmoid,
        several=True,
        beside={"accuracy": label_accuracy},
    ),
    "regression": Task(
        squared_error,
        kendall_tau,
        metric_name="kendall_tau",
        metric_title="Kendall's τ",
        classes=False,
        goal="a value for each network, such as its test accuracy",
    ),
}


def of_metric(metric_name: str) -> Task:
    """The task that is scored by a metric, as `result.json` names it."""
    return next(task for task in TASKS.values() if task.metric_name == metric_name)
