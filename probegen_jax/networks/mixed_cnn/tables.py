"""Networks of a mixed zoo as tables of layers and programs over them, in NumPy arrays."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn.cnn import CnnSpec, CnnWeights
from probegen_jax.networks.cnn.layer import PER_NETWORK
from probegen_jax.networks.mixed_cnn.kinds import Kind, Shape
from probegen_jax.networks.shared_rows import Counts, SharedRows


def pack(
    kinds: Sequence[Kind],
    max_layers: int,
    specs: Sequence[CnnSpec],
    networks: Sequence[CnnWeights],
    names: Sequence[str],
) -> dict[str, Any]:
    """The weights of a mixed zoo, see `mixed.build`, of networks that use some of the `kinds`."""
    widest = max(kind.outputs[2] for kind in kinds)
    layers: list[list[dict[str, np.ndarray]]] = [[] for _ in kinds]
    shape, classes = (len(specs), max_layers), specs[0].num_classes
    head = {
        "kernel": np.zeros((len(specs), widest, classes), np.float32),
        "bias": np.zeros((len(specs), classes), np.float32),
    }
    programs = {
        **kinds_in_use(kinds, max_layers, specs),
        **{name: np.zeros(shape, np.int32) for name in ("row", "activation")},
        "residual": np.full(shape, -1, np.int32),
        "head": head,
    }
    activations = list(ACTIVATIONS)
    for n, (spec, weights, name) in enumerate(zip(specs, networks, names, strict=True)):
        spec.check(weights, name)
        for i, layer in enumerate(spec.layers):
            rows = layers[programs["kind"][n, i]]
            chosen = layer.activation
            if chosen == PER_NETWORK:
                chosen = spec.activations[int(weights["activation"])]
            programs["row"][n, i] = len(rows)
            programs["activation"][n, i] = activations.index(chosen)
            programs["residual"][n, i] = layer.residual
            rows.append(weights["layers"][i])
        channels = spec.layers[-1].out_channels
        head["kernel"][n, :channels] = weights["head"]["kernel"]
        head["bias"][n] = weights["head"]["bias"]
    return {"tables": tuple(map(_table, kinds, layers)), "programs": programs}


def kinds_of(spec: CnnSpec) -> list[Kind]:
    """The kind of each layer of a network."""
    kinds, inputs = [], stored(spec.image_shape)
    for layer, size in zip(spec.layers, spec.sizes, strict=True):
        outputs = (*size, layer.out_channels)
        kinds.append(Kind(layer.kernel, layer.stride, layer.padding, inputs, outputs))
        inputs = outputs
    return kinds


def kinds_in_use(
    kinds: Sequence[Kind], max_layers: int, specs: Sequence[CnnSpec]
) -> dict[str, np.ndarray]:
    """What networks' programs say without their arrays: `depth` and each layer's `kind`."""
    places = {kind: place for place, kind in enumerate(kinds)}
    numbers = {spec: [places[kind] for kind in kinds_of(spec)] for spec in dict.fromkeys(specs)}
    kinds_NxL = np.zeros((len(specs), max_layers), np.int32)
    for row_L, spec in zip(kinds_NxL, specs, strict=True):
        row_L[: len(spec.layers)] = numbers[spec]
    depths_N = np.array([len(spec.layers) for spec in specs], np.int32)
    return {"depth": depths_N, "kind": kinds_NxL}


def activations_of(specs: Sequence[CnnSpec]) -> tuple[str, ...]:
    """What the networks may have, in the order of `ACTIVATIONS`."""
    found = {name for spec in specs for name in spec.activations}
    found |= {layer.activation for spec in specs for layer in spec.layers}
    return tuple(name for name in ACTIVATIONS if name in found)


def stored(shape: Shape) -> Shape:
    """The shape that images of `shape` are kept in: three channels get a fourth, of zeros.

    Measured: a convolution of four channels takes two thirds of the time of one of three.
    """
    return (*shape[:2], 4 if shape[2] == 3 else shape[2])


def _table(kind: Kind, rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All layers of a kind."""
    channels = (kind.inputs[2], kind.outputs[2])
    table = {
        "kernel": np.zeros((len(rows), kind.kernel, kind.kernel, *channels), np.float32),
        "bias": np.zeros((len(rows), channels[1]), np.float32),
    }
    for place, row in enumerate(rows):
        table["kernel"][place, :, :, : row["kernel"].shape[2]] = row["kernel"]
        table["bias"][place] = row["bias"]
    return table


def in_use(programs: Any) -> Bool[np.ndarray, "N L"]:
    """Which layers of programs, on the host, are those of a network, not filling."""
    return np.arange(programs["kind"].shape[1])[None] < np.asarray(programs["depth"])[:, None]


def census(programs: Any) -> dict[str, dict[str, int]]:
    """See `NetworkSpec.census`; of activations and residual links only where they are in memory."""
    used_NxL = in_use(programs)
    known = [programs[key] for key in ("kind", "activation", "residual") if key in programs]
    told = np.concatenate([np.where(used_NxL, np.asarray(each), -2) for each in known], axis=1)
    depths, counts = np.unique(np.asarray(programs["depth"]), return_counts=True)
    layers = {f"{n} layers": count for n, count in zip(depths, counts.tolist(), strict=True)}
    found = {f"{len(np.unique(told, axis=0)):,} architectures": layers}
    if "activation" in programs:
        number_A = np.bincount(np.asarray(programs["activation"])[used_NxL])
        pairs = zip(ACTIVATIONS, number_A.tolist(), strict=False)
        found["activations of layers"] = {name: count for name, count in pairs if count}
    return found


def shared_rows(kinds: Sequence[Kind], programs: Any) -> SharedRows:
    """See `NetworkSpec.shared_rows`."""
    used_NxL, kinds_NxL = in_use(programs), np.asarray(programs["kind"])
    counts = [((kinds_NxL == k) & used_NxL).sum(axis=1, dtype=np.int32) for k in range(len(kinds))]
    values = [math.prod(kind.kernel_shape) + kind.outputs[2] for kind in kinds]
    return SharedRows(np.stack(counts, axis=1), 4 * np.array(values, np.int64))


def shard(
    weights: Any, rows: Sequence[Int[np.ndarray, " n"]], lengths: Callable[[Counts], Counts]
) -> list[Any]:
    """See `NetworkSpec.shard`; of each table a device gets only what its networks use."""
    kinds = range(len(weights["tables"]))
    stacked = jax.tree.map(np.asarray, weights["programs"])
    programs = [jax.tree.map(lambda leaf, n=n: leaf[n], stacked) for n in rows]
    used = [[_used(part, kind) for kind in kinds] for part in programs]
    found = lengths(np.max([list(map(len, part)) for part in used], axis=0, initial=1))
    tables = weights["tables"]
    return [_compact(tables, *part, found) for part in zip(programs, used, strict=True)]


def _used(programs: Any, kind: int) -> Int[np.ndarray, " n"]:
    """The rows of a kind's table that programs name."""
    return np.unique(programs["row"][in_use(programs) & (programs["kind"] == kind)])


def _compact(
    tables: Any, programs: Any, used: Sequence[Int[np.ndarray, " _"]], lengths: Counts
) -> Any:
    """Weights with only the rows `used` of each table, filled up to `lengths`.

    Kernels are flat there, (rows, k·k·in·out): accelerators store small last axes badly, and would
    turn a whole table round for the sake of one convolution.
    """
    kinds, rows = programs["kind"], programs["row"]
    new_rows, parts = np.zeros_like(rows), []
    for kind, (table, old, length) in enumerate(zip(tables, used, lengths, strict=True)):
        filling = [(0, length - len(old)), (0, 0)]
        flat = {
            name: leaf[old].reshape(len(old), math.prod(leaf.shape[1:]))
            for name, leaf in table.items()
        }
        parts.append({name: np.pad(leaf, filling) for name, leaf in flat.items()})
        here = kinds == kind
        # Beyond a program's depth there may be rows that are not in use; they stay 0.
        new_rows[here] = np.searchsorted(old, rows[here]).clip(0, length - 1)
    return {"tables": tuple(parts), "programs": {**programs, "row": new_rows}}
