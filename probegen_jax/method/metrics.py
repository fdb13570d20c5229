"""What is reported of a split's predictions; computed on the host, once per evaluation."""

from collections.abc import Callable

import numpy as np

from probegen_jax.errors import UserError

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(outputs_NxO: np.ndarray, targets_N: np.ndarray) -> float:
    """Share of networks whose largest logit is their class, in [0, 1]."""
    return float(np.mean(np.argmax(outputs_NxO, axis=-1) == targets_N))


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

    Args:
      metric: of outputs and targets.
      outputs_NxO: of N networks.
      targets_N: their targets.
      runs_N: the run that each is a checkpoint of.

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


# The task's metric by name; larger is better.
METRICS: dict[str, tuple[str, Metric]] = {
    "classification": ("accuracy", accuracy),
    "regression": ("kendall_tau", kendall_tau),
}
