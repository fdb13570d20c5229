"""The published CNN zoos, from prepared columns to zoos that can be probed."""

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.networks import cnn, mixed
from probegen_jax.zoo.datasets.cifar10_gs import ACTIVATIONS
from probegen_jax.zoo.datasets.park_network import ParkNetwork
from probegen_jax.zoo.datasets.reading import Columns
from probegen_jax.zoo.datasets.small_cnn_files import SHAPES
from probegen_jax.zoo.zoo import Zoo


def cifar10_gs(columns: Columns, rows: dict[str, np.ndarray], fidelity: cnn.Fidelity) -> Zoo:
    """The Small CNN Zoo on grayscale CIFAR-10.

    Args:
      columns: as prepared.
      rows: of each split.
      fidelity: "faithful" runs the networks as they were trained, "official" as ProbeGen's
        published code does, with a pixel of padding.
    """
    names = np.char.decode(np.asarray(columns["activation"]))
    # The published zoo has relu and tanh; others of its format more.
    present = tuple(name for name in ACTIVATIONS if name in ("relu", "tanh") or name in names)
    arrays = dict(zip(SHAPES, _parts(np.asarray(columns["weights"])), strict=True))

    def affine(name: str) -> dict[str, np.ndarray]:
        return {part: arrays[f"sequential/{name}/{part}:0"] for part in ("kernel", "bias")}

    weights = {
        "layers": tuple(affine(name) for name in ("conv2d", "conv2d_1", "conv2d_2")),
        "head": affine("dense"),
        "activation": np.asarray([present.index(name) for name in names], np.int32),
    }
    return Zoo(
        "cifar10_gs",
        cnn.small_cnn_zoo(present, fidelity),
        weights,
        np.asarray(columns["score"]),
        rows,
        "regression",
        1,
    )


def cifar10_wild_park(columns: Columns, rows: dict[str, np.ndarray], fidelity: cnn.Fidelity) -> Zoo:
    """The CNN Wild Park, with the training run of each network.

    Args:
      columns: as prepared.
      rows: of each split.
      fidelity: "faithful" keeps residual links, "official" drops them as ProbeGen's published code
        does.
    """
    specs: dict[bytes, cnn.CnnSpec] = {}
    of_network, weights = [], []
    for layers, vector, classes, path in zip(
        columns["layers"], columns["weights"], columns["num_classes"], columns["path"], strict=True
    ):
        network = ParkNetwork(layers, vector, int(classes))
        key = layers.tobytes() + bytes([int(classes)])
        if key not in specs:
            try:
                specs[key] = cnn.wild_park(network.config(), fidelity, path.decode())
            except UserError as error:
                raise UserError(
                    f"{error}; prepare the zoo again with that network removed"
                ) from error
        of_network.append(specs[key])
        weights.append(network.arrays())
    spec, stacked = mixed.build(of_network, weights, [path.decode() for path in columns["path"]])
    _, runs_N = np.unique(np.asarray(columns["run"]), return_inverse=True)
    return Zoo(
        "cifar10_wild_park",
        spec,
        stacked,
        np.asarray(columns["score"]),
        rows,
        "regression",
        1,
        runs_N.astype(np.int32),
    )


def _parts(vectors_NxW: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])
    return [
        part.reshape(-1, *shape)
        for part, shape in zip(
            np.split(vectors_NxW, ends[:-1], axis=1), SHAPES.values(), strict=True
        )
    ]
