"""The figures of outputs for a zoo's networks: of each seed, and of the seeds' mean prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from probegen_jax.method.tasks import TASKS, mean_over_runs
from probegen_jax.zoo.zoo import Zoo

_Outputs = Mapping[str, Float[np.ndarray, "S N O"]]
_Views = Mapping[str, Float[np.ndarray, "K S N O"]]


def of_seeds(
    zoo: Zoo, at: Sequence[int], outputs: _Outputs, views: _Views | None = None
) -> list[dict[str, Any]]:
    """What `result.json` says of one set of parameters, by their outputs for each split.

    Args:
      views: outputs for moved networks, if any.

    Returns:
      Of every seed: its step, and for each split the metric, what the task tells beside it, also
      the metric within runs where the zoo has runs, and that of the mean prediction for each image
      where images have several networks, or networks have views.
    """
    found: list[dict[str, Any]] = [{"step": step} for step in at]
    for split, outputs_SxNxO in outputs.items():
        for seed, entry in enumerate(found):
            entry |= _figures(zoo, split, outputs_SxNxO[seed])
            own = None if not views else views[split][:, seed : seed + 1]
            entry |= _by_image(zoo, split, outputs_SxNxO[seed : seed + 1], own)
    return found


def of_ensemble(
    zoo: Zoo, outputs: _Outputs, views: _Views | None = None
) -> dict[str, float | None]:
    """The same figures of the mean prediction over seeds, as `predict` makes it; without a step."""
    task, found = TASKS[zoo.task], {}
    for split, outputs_SxNxO in outputs.items():
        found |= _figures(zoo, split, task.ensemble(outputs_SxNxO))
        found |= _by_image(zoo, split, outputs_SxNxO, views[split] if views else None)
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


def _by_image(
    zoo: Zoo,
    split: str,
    outputs_SxNxO: Float[np.ndarray, "S N O"],
    views_KxSxNxO: Float[np.ndarray, "K S N O"] | None,
) -> dict[str, float | None]:
    """The metric of the mean prediction over an image's networks, their views, and seeds."""
    if zoo.images_N is None and views_KxSxNxO is None:
        return {}
    task, rows = TASKS[zoo.task], zoo.splits[split]
    if views_KxSxNxO is not None:
        moved = views_KxSxNxO.reshape(-1, *outputs_SxNxO.shape[1:])
        outputs_SxNxO = np.concatenate([outputs_SxNxO, moved])
    first, images_N = np.arange(len(rows)), None
    if zoo.images_N is not None:
        _, first, images_N = np.unique(zoo.images_N[rows], return_index=True, return_inverse=True)
    of_images = task.ensemble(outputs_SxNxO, images_N)
    return {f"{split}_by_image": task.metric(of_images, zoo.targets_N[rows[first]])}
