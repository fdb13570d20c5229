"""Built CNNs as they are stored: what is kept of each, and which are for what."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from probegen_jax.factory.cnn.planned import Planned
from probegen_jax.networks.cnn import layer_table
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer_table import ParkNetwork
from probegen_jax.zoo import flat_weights, splits
from probegen_jax.zoo.prepared import builders
from probegen_jax.zoo.zoo import SPLITS

# Of a network's training, by the name of the feature: as in the Small CNN Zoo's metrics.
SETTINGS = ("optimizer", "w_init", "learning_rate", "momentum", "init_std", "init_scale", "l2reg")
SETTINGS += ("dropout", "train_fraction", "epochs")
_TEXT = ("optimizer", "w_init")
_METRICS = ("train_accuracy", "train_loss", "test_loss")


def features() -> dict[str, Any]:
    """TFDS features of a built CNN: those of the Wild Park, metrics, and how it was trained."""
    return {
        "layers": builders.stored(None, len(layer_table.COLUMNS), dtype=np.int32),
        "weights": builders.stored(None),
        "num_classes": np.int32,
        "score": np.float32,  # accuracy on the test images
        **dict.fromkeys(_METRICS, np.float32),
        "iteration": np.int32,  # epoch of the checkpoint, or step where the space counts steps
        "run": np.int32,
        **{name: tfds.features.Text() if name in _TEXT else np.float32 for name in SETTINGS},
    }


def example(
    network: Planned, run: int, arrays: Mapping[str, np.ndarray], row: int, k: int
) -> dict[str, Any]:
    """One checkpoint's features."""
    stored = to_park(network.spec, arrays["weights"][row, k])
    values = {name: getattr(network.run, name, None) for name in SETTINGS}
    values |= {"train_fraction": network.train_fraction, "epochs": float(network.units[-1])}
    return {
        "layers": stored.layers,
        "weights": stored.weights,
        "num_classes": stored.num_classes,
        "score": arrays["test_accuracy"][row, k],
        **{name: arrays[name][row, k] for name in _METRICS},
        "iteration": network.units[k],
        "run": run,
        **{name: v if name in _TEXT else np.float32(v) for name, v in values.items()},
    }


def to_park(spec: CnnSpec, vector: np.ndarray) -> ParkNetwork:
    """A trained network as the Wild Park stores one."""
    table = [
        (
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            layer.padding,
            layer_table.ACTIVATIONS.index(layer.activation),
            layer.residual,
        )
        for layer in spec.layers
    ]
    weights = layer_table.flatten(flat_weights.unflatten_one(vector, spec.abstract()))
    return ParkNetwork(np.asarray(table, np.int32), weights, spec.num_classes)


def split(
    kept: Sequence[int], planned: Sequence[Planned], wanted: Mapping[str, Any], where: pathlib.Path
) -> dict[str, list[int]]:
    """Runs of each split.

    Args:
      wanted: `by`, "run" or "architecture", `val_share` and `test_share`.

    Raises:
      UserError: too few runs or architectures for a split of each.
    """
    shares = wanted["val_share"], wanted["test_share"]
    if wanted["by"] == "run":
        return splits.seeded(kept, *shares, where=where)
    groups: dict[CnnSpec, list[int]] = {}
    for index in kept:
        groups.setdefault(planned[index].spec, []).append(index)
    parts = splits.seeded(list(groups), *shares, where=where)
    return {name: [index for spec in parts[name] for index in groups[spec]] for name in SPLITS}
