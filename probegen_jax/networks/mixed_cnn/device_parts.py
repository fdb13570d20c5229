"""Parts of a mixed zoo, one for each device that its networks are split over."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int


def take_shards(
    weights: Any,
    rows: Sequence[Int[np.ndarray, " n"]],
    over_hosts: Callable[[Int[np.ndarray, " k"]], Int[np.ndarray, " k"]] = lambda counts: counts,
) -> list[Any]:
    """The networks of each device, in arrays of the same shapes for all devices.

    Args:
      weights: of the zoo, on the host.
      rows: for each device, equally many rows of the zoo.
      over_hosts: the greatest of each count over all hosts, whose devices are not among `rows`.

    Returns:
      For each device, NumPy arrays with its networks in the order of its rows, and of each table
      only what these networks use.
    """
    taken = [{**weights, "programs": _take(weights["programs"], each)} for each in rows]
    kinds = range(len(weights["tables"]))
    used = [[_used(each["programs"], kind) for kind in kinds] for each in taken]
    most = np.max([[len(table) for table in tables] for tables in used], axis=0, initial=1)
    most = over_hosts(most)
    return [_compact(each, tables, most) for each, tables in zip(taken, used, strict=True)]


def _take(weights: Any, rows: Int[np.ndarray, " n"]) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], weights)


def _used(programs: Any, kind: int) -> Int[np.ndarray, " n"]:
    """The rows of a kind's table that programs name."""
    layers = np.arange(programs["kind"].shape[1])[None]
    there = (layers < programs["depth"][:, None]) & (programs["kind"] == kind)
    return np.unique(programs["row"][there])


def _compact(
    weights: Any, used: Sequence[Int[np.ndarray, " _"]], lengths: Int[np.ndarray, " k"]
) -> Any:
    """Weights with only the rows `used` of each table, filled up to `lengths`."""
    kinds, rows = weights["programs"]["kind"], weights["programs"]["row"]
    new_rows, tables = np.zeros_like(rows), []
    for kind, (table, old, length) in enumerate(zip(weights["tables"], used, lengths, strict=True)):
        chosen = np.pad(old, (0, length - len(old)))
        tables.append(jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], table))
        here = kinds == kind
        # Beyond a program's depth there may be rows that are not in use; they stay 0.
        new_rows[here] = np.searchsorted(old, rows[here]).clip(0, length - 1)
    return {"tables": tuple(tables), "programs": {**weights["programs"], "row": new_rows}}
