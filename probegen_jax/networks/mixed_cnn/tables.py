"""Networks of a mixed zoo as tables of layers and programs over them, in NumPy arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn.cnn import CnnSpec, CnnWeights
from probegen_jax.networks.cnn.layer import PER_NETWORK
from probegen_jax.networks.mixed_cnn.on_cpu.interpreter import Kind, Shape


def pack(
    kinds: Sequence[Kind],
    max_layers: int,
    specs: Sequence[CnnSpec],
    networks: Sequence[CnnWeights],
    names: Sequence[str],
) -> dict[str, Any]:
    """The weights of a mixed zoo, see `MixedCnnSpec`.

    Args:
      kinds: of all layers of the networks; there may be more.
      max_layers: at least those of any network.
      specs: of each network; they agree in image shape and number of classes.
      networks: weights of each, as `CnnSpec.apply` takes them.
      names: what errors call them.

    Raises:
      UserError: weights that disagree with their spec, or networks that cannot share a zoo.
    """
    places = {kind: place for place, kind in enumerate(kinds)}
    widest = max(kind.outputs[2] for kind in kinds)
    layers: list[list[dict[str, np.ndarray]]] = [[] for _ in kinds]
    shape, classes = (len(specs), max_layers), specs[0].num_classes
    programs = {
        "depth": np.zeros(len(specs), np.int32),
        "kind": np.zeros(shape, np.int32),
        "row": np.zeros(shape, np.int32),
        "activation": np.zeros(shape, np.int32),
        "residual": np.full(shape, -1, np.int32),
        "head": {
            "kernel": np.zeros((len(specs), widest, classes), np.float32),
            "bias": np.zeros((len(specs), classes), np.float32),
        },
    }
    activations = list(ACTIVATIONS)
    for n, (spec, weights, name) in enumerate(zip(specs, networks, names, strict=True)):
        _check_member(specs[0], spec, weights, name)
        programs["depth"][n] = len(spec.layers)
        for i, (layer, kind) in enumerate(zip(spec.layers, kinds_of(spec), strict=True)):
            rows = layers[places[kind]]
            chosen = layer.activation
            if chosen == PER_NETWORK:
                chosen = spec.activations[int(weights["activation"])]
            programs["kind"][n, i] = places[kind]
            programs["row"][n, i] = len(rows)
            programs["activation"][n, i] = activations.index(chosen)
            programs["residual"][n, i] = layer.residual
            rows.append(weights["layers"][i])
        channels = spec.layers[-1].out_channels
        programs["head"]["kernel"][n, :channels] = weights["head"]["kernel"]
        programs["head"]["bias"][n] = weights["head"]["bias"]
    return {"tables": tuple(map(_table, kinds, layers)), "programs": programs}


def kinds_of(spec: CnnSpec) -> list[Kind]:
    """The kind of each layer of a network."""
    kinds, inputs = [], stored(spec.image_shape)
    for layer, size in zip(spec.layers, spec.sizes, strict=True):
        outputs = (*size, layer.out_channels)
        kinds.append(Kind(layer.kernel, layer.stride, layer.padding, inputs, outputs))
        inputs = outputs
    return kinds


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


def _check_member(first: CnnSpec, spec: CnnSpec, weights: CnnWeights, name: str) -> None:
    """Raises a `UserError` unless a network is as its spec says and fits the zoo."""
    spec.check(weights, name)
    for what in ("image_shape", "num_classes"):
        if getattr(spec, what) != getattr(first, what):
            raise UserError(
                f"network {name}: {what} is {getattr(spec, what)}, but the zoo's is "
                f"{getattr(first, what)}; a zoo's networks must agree in it"
            )
