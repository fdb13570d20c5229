"""Networks of several architectures: a table of stacked networks for each, and rows of them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probegen_jax.networks.shapes import size_of
from probegen_jax.networks.shared_rows import Counts, SharedRows

Run = Callable[[Any, jax.Array], jax.Array]  # one network's weights and the probes


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def respond(
    runs: tuple[Run, ...], weights: Any, probes: Float[Array, "P ..."]
) -> Float[Array, "B P R"]:
    """Every network of a batch on every probe, one after another; differentiable in the probes.

    Args:
      runs: of each architecture, what one network answers.
      weights: `tables`, and of each network `which` table and `row`.
    """

    def one(network: tuple[jax.Array, jax.Array]) -> jax.Array:
        def answers(run: Run, table: Any) -> Callable[[jax.Array], jax.Array]:
            return lambda row: run(_at(table, row), probes)

        branches = list(map(answers, runs, weights["tables"]))
        which, row = network
        return jax.lax.switch(which, branches, row)

    return jax.lax.map(one, (weights["which"], weights["row"]))


def _forward(runs: tuple[Run, ...], weights: Any, probes: jax.Array) -> tuple[jax.Array, Any]:
    return respond(runs, weights, probes), (weights, probes)


def _back(runs: tuple[Run, ...], kept: Any, gradients_BxPxR: jax.Array) -> tuple[None, jax.Array]:
    """The probes' gradient, and none of the weights, which are data.

    By hand, so that a network's branch alone runs forwards and back: `lax.switch` would have each
    branch keep what any of them needs.
    """
    weights, probes = kept

    def add(total: jax.Array, network: Any) -> tuple[jax.Array, None]:
        def gradient(run: Run, table: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
            def of(row: jax.Array, gradients_PxR: jax.Array) -> jax.Array:
                _, back = jax.vjp(functools.partial(run, _at(table, row)), probes)
                return back(gradients_PxR)[0]

            return of

        which, row, gradients_PxR = network
        branches = list(map(gradient, runs, weights["tables"]))
        return total + jax.lax.switch(which, branches, row, gradients_PxR), None

    networks = (weights["which"], weights["row"], gradients_BxPxR)
    total, _ = jax.lax.scan(add, jnp.zeros_like(probes), networks)
    return None, total


respond.defvjp(_forward, _back)


def _at(table: Any, row: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[row], table)


def shared_rows(abstracts: Sequence[Any], weights: Any) -> SharedRows:
    """See `NetworkSpec.shared_rows`: a row of one table each."""
    counts_NxK = np.asarray(weights["which"])[:, None] == np.arange(len(abstracts))
    sizes = np.array([4 * size_of(each) for each in abstracts], np.int64)
    return SharedRows(counts_NxK.astype(np.int32), sizes)


def shard(
    weights: Any, rows: Sequence[Int[np.ndarray, " n"]], lengths: Callable[[Counts], Counts]
) -> list[Any]:
    """See `NetworkSpec.shard`; of each table a device gets only its networks' rows."""
    whiches, all_rows = (np.asarray(weights[name]) for name in ("which", "row"))
    tables = range(len(weights["tables"]))
    used = [[np.unique(all_rows[n][whiches[n] == table]) for table in tables] for n in rows]
    found = lengths(np.max([list(map(len, part)) for part in used], axis=0, initial=1))
    return [
        _compact(weights["tables"], whiches[n], all_rows[n], part, found)
        for n, part in zip(rows, used, strict=True)
    ]


def _compact(
    tables: Any,
    which_n: Int[np.ndarray, " n"],
    row_n: Int[np.ndarray, " n"],
    used: Sequence[Int[np.ndarray, " _"]],
    lengths: Counts,
) -> Any:
    """Tables of the rows `used`, filled up to `lengths`, and networks by their rows there."""
    new_n, parts = np.zeros_like(row_n), []
    for place, (table, old, length) in enumerate(zip(tables, used, lengths, strict=True)):
        filled = np.pad(old, (0, int(length) - len(old)))  # with row 0, which nobody names
        parts.append(jax.tree.map(lambda leaf, filled=filled: np.asarray(leaf)[filled], table))
        here = which_n == place
        new_n[here] = np.searchsorted(old, row_n[here])
    return {"tables": tuple(parts), "which": which_n, "row": new_n}
