"""The figures of outputs for a zoo's networks: of each seed, and of the seeds' mean prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from probegen_jax.method.tasks import TASKS, mean_over_runs
from probegen_jax.zoo.zoo import Zoo


def of_seeds(
    zoo: Zoo, at: Sequence[int], outputs: Mapping[str, Float[np.ndarray, "S N O"]]
) -> list[dict[str, Any]]:
    """What `result.json` says of one set of parameters, by their outputs for each split.

    Returns:
      Of every seed: its step, and for each split the metric, what the task tells beside it, and
      also the metric within runs where the zoo has runs.
    """
    found: list[dict[str, Any]] = [{"step": step} for step in at]
    for split, outputs_SxNxO in outputs.items():
        for entry, outputs_NxO in zip(found, outputs_SxNxO, strict=True):
            entry |= _figures(zoo, split, outputs_NxO)
    return found


def of_ensemble(
    zoo: Zoo, outputs: Mapping[str, Float[np.ndarray, "S N O"]]
) -> dict[str, float | None]:
    """The same figures of the mean prediction over seeds, as `predict` makes it; without a step."""
    task, found = TASKS[zoo.task], {}
    for split, outputs_SxNxO in outputs.items():
        found |= _figures(zoo, split, task.ensemble(outputs_SxNxO))
    return found


def _figures(
    zoo: Zoo, split: str, outputs_NxO: Float[np.ndarray, "N O"]
) -> dict[str, float | None]:
    task, rows = TASKS[zoo.task], zoo.splits[split]
    targets_N = zoo.targets_N[rows]
    found = {split: task.metric(outputs_NxO, targets_N)}
    for name, measure in task.beside.items():
        found[f"{split}_{name}"] = measure(outputs_NxO, targets_N)
    if zoo.runs_N is not None:
        found[f"{split}_within_runs"] = mean_over_runs(
            task.metric, outputs_NxO, targets_N, zoo.runs_N[rows]
        )
    return found
