"""CNN zoos, from prepared columns to zoos that can be probed."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.networks.cnn import cnn, published
from probegen_jax.networks.cnn.layer import PER_NETWORK
from probegen_jax.networks.cnn.layer_table import ParkNetwork
from probegen_jax.networks.mixed_cnn import mixed, tables
from probegen_jax.networks.pixels import Pixels
from probegen_jax.typed_json import typed
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.files.small_cnn_files import ACTIVATIONS, SHAPES
from probegen_jax.zoo.prepared.reading import Columns, Ragged
from probegen_jax.zoo.zoo import Stored, Zoo


def small_cnn_zoo(
    name: str,
    side: int,
    columns: Columns,
    rows: dict[str, np.ndarray],
    fidelity: published.Fidelity,
) -> Zoo:
    """A part of the Small CNN Zoo; with the "official" fidelity padded by a pixel.

    Args:
      side: of the images that its networks were trained on.
    """
    names = np.char.decode(np.asarray(columns["activation"]))
    # The published zoos have relu and tanh; others of their format more.
    present = tuple(name for name in ACTIVATIONS if name in ("relu", "tanh") or name in names)
    shapes = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in SHAPES.items()}
    arrays = flat_weights.unflatten(np.asarray(columns["weights"]), shapes)

    def affine(layer: str) -> dict[str, np.ndarray]:
        return {part: arrays[f"sequential/{layer}/{part}:0"] for part in ("kernel", "bias")}

    weights = {
        "layers": tuple(affine(layer) for layer in ("conv2d", "conv2d_1", "conv2d_2")),
        "head": affine("dense"),
        "activation": np.asarray([present.index(each) for each in names], np.int32),
    }
    spec = published.small_cnn_zoo(present, fidelity, side=side)
    return Zoo(name, spec, weights, np.asarray(columns["score"]), rows, "regression", 1)


def cifar10_wild_park(
    columns: Columns, rows: dict[str, np.ndarray], fidelity: published.Fidelity
) -> Zoo:
    """The CNN Wild Park, with the run of each network; "official" is without residual links."""
    names = [path.decode() for path in columns["path"]]
    spec, stacked = _mixed(columns, _architectures(columns, fidelity, names), names)
    _, runs_N = np.unique(np.asarray(columns["run"]), return_inverse=True)
    scores_N, runs_N = np.asarray(columns["score"]), runs_N.astype(np.int32)
    return Zoo("cifar10_wild_park", spec, stacked, scores_N, rows, "regression", 1, runs_N)


def built(
    columns: Columns, rows: dict[str, np.ndarray], metadata: Mapping[str, Any], fidelity: str
) -> Zoo:
    """A zoo that `build_zoo cnn` made.

    Args:
      fidelity: "faithful", or "official": networks of the Small CNN Zoo's architecture padded by a
        pixel and all others without residual links, as ProbeGen's published code runs such zoos.
    """
    size = typed(tuple[int, int, int], metadata["image_shape"], "image_shape in metadata.json")
    names = [f"run {run}" for run in columns["run"]]
    specs = _architectures(columns, fidelity, names, size[:2], _pixels(metadata, size[2]))
    used = dict.fromkeys(specs)
    common = _but_for_activation(list(used), fidelity)
    if common is None:
        spec, stacked = _mixed(columns, specs, names)
    else:
        spec = common
        weights = (_network(columns, n).arrays() for n in range(len(specs)))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *weights)
        stacked["activation"] = np.asarray(
            [spec.activations.index(each.layers[0].activation) for each in specs], np.int32
        )
    runs, runs_N = np.unique(np.asarray(columns["run"]), return_inverse=True)
    runs_N = runs_N.astype(np.int32) if len(runs) < len(runs_N) else None
    name, scores_N = str(metadata["name"]), np.asarray(columns["score"])
    return Zoo(name, spec, stacked, scores_N, rows, "regression", 1, runs_N)


def _mixed(
    columns: Columns, specs: list[cnn.CnnSpec], names: Sequence[str]
) -> tuple[mixed.MixedCnnSpec, Any]:
    """A mixed zoo; where weights are mapped, they stay on the disk."""

    def arrays(rows: Iterable[int]) -> list[cnn.CnnWeights]:
        return [_network(columns, n).arrays() for n in rows]

    if not isinstance(columns["weights"], Ragged):
        return mixed.build(specs, arrays(range(len(specs))), names)
    spec, known = mixed.outline(specs, names)

    def read(rows_N: np.ndarray) -> Any:
        rows = rows_N.tolist()
        own = [specs[n] for n in rows], arrays(rows), [names[n] for n in rows]
        return tables.pack(spec.kinds, spec.max_layers, *own)

    return spec, Stored(read, known)


def _network(columns: Columns, row: int) -> ParkNetwork:
    of_row = (columns[name][row] for name in ("layers", "weights", "num_classes"))
    layers, weights, num_classes = of_row
    return ParkNetwork(layers, weights, int(num_classes))


def _architectures(
    columns: Columns,
    fidelity: str,
    names: Sequence[str],
    image_size: tuple[int, int] = (32, 32),
    pixels: Pixels = published.CIFAR10,
) -> list[cnn.CnnSpec]:
    """The architecture of each network; names are for messages."""
    specs: dict[tuple[bytes, int], cnn.CnnSpec] = {}
    of_network = []
    for row, name in enumerate(names):
        network = _network(columns, row)
        network.check(name)
        key = network.layers.tobytes(), network.num_classes
        if key not in specs:
            try:
                specs[key] = published.wild_park(
                    network.config(), fidelity, name, image_size, pixels
                )
            except UserError as error:
                told = f"{error}; prepare the zoo again with that network removed"
                raise UserError(told) from error
        of_network.append(specs[key])
    return of_network


def _pixels(metadata: Mapping[str, Any], channels: int) -> Pixels:
    """How a built zoo's images were normalised; earlier versions did not note it."""
    if "pixels" in metadata:
        return typed(Pixels, metadata["pixels"], "pixels in metadata.json")
    return published.CIFAR10 if channels == 3 else published.signed(channels)


def _but_for_activation(specs: list[cnn.CnnSpec], fidelity: str) -> cnn.CnnSpec | None:
    """The one architecture of networks that each have one activation; None if there are more."""

    def without(spec: cnn.CnnSpec) -> cnn.CnnSpec:
        layers = [dataclasses.replace(layer, activation=PER_NETWORK) for layer in spec.layers]
        return dataclasses.replace(spec, layers=tuple(layers), activations=present)

    if any(len({layer.activation for layer in spec.layers}) > 1 for spec in specs):
        return None
    present = tuple(sorted({spec.layers[0].activation for spec in specs}))
    alike = {without(spec) for spec in specs}
    if len(alike) > 1:
        return None
    (spec,) = alike
    small = dataclasses.replace(published.small_cnn_zoo(present), image_shape=spec.image_shape)
    if fidelity == "official" and spec == dataclasses.replace(small, num_classes=spec.num_classes):
        padded = [dataclasses.replace(layer, padding=1) for layer in spec.layers]
        return dataclasses.replace(spec, layers=tuple(padded))
    return spec
