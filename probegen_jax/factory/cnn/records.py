"""Built CNNs as they are stored: what is kept of each, and which are for what."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probegen_jax.factory.cnn.planned import Planned
from probegen_jax.networks.cnn import layer_table
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer_table import ParkNetwork
from probegen_jax.zoo import flat_weights, splits
from probegen_jax.zoo.prepared import schema
from probegen_jax.zoo.zoo import SPLITS


def example(
    network: Planned, run: int, arrays: Mapping[str, np.ndarray], row: int, k: int
) -> dict[str, Any]:
    """One checkpoint's features."""
    stored = to_park(network.spec, arrays["weights"][row, k])
    values = {name: getattr(network.run, name, None) for name in schema.SETTINGS}
    values |= {"train_fraction": network.train_fraction, "epochs": float(network.units[-1])}
    return {
        "layers": stored.layers,
        "weights": stored.weights,
        "num_classes": stored.num_classes,
        "score": arrays["test_accuracy"][row, k],
        **{name: arrays[name][row, k] for name in schema.METRICS},
        "iteration": network.units[k],
        "run": run,
        **{name: v if name in schema.TEXT else np.float32(v) for name, v in values.items()},
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
