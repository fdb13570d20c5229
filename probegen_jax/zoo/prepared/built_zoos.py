"""Zoos that `build_zoo` made, from their folder to zoos that can be probed."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.networks import registry
from probegen_jax.typed_json import typed
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.prepared.builders import damaged
from probegen_jax.zoo.prepared.reading import Columns, read
from probegen_jax.zoo.zoo import Zoo


def load(folder: pathlib.Path, family: str | None, fidelity: str = "faithful") -> Zoo:
    """A built zoo, with weights on the host; a `UserError` without a whole one of the family.

    Args:
      family: "inr" or "cnn", as the config expects; None for any.
      fidelity: of CNN zoos: "faithful" runs networks as they were trained, "official" as ProbeGen's
        published code does.
    """
    from probegen_jax.zoo.prepared import build_folder

    builder = build_folder.opened(folder)
    metadata = dict(builder.info.metadata)
    if family not in (None, metadata["family"]):
        raise UserError(
            f"{folder} is a zoo of the family {metadata['family']!r}, but this config is for "
            f"{family!r}; {_CONFIGS}"
        )
    columns, rows = read(builder)
    try:
        if metadata["family"] == "inr":
            return _inr(columns, rows, metadata)
        from probegen_jax.zoo.prepared import cnn_zoos

        return cnn_zoos.built(columns, rows, metadata, fidelity)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise damaged(builder.folder, error) from error


def _inr(columns: Columns, rows: dict[str, np.ndarray], metadata: Mapping[str, Any]) -> Zoo:
    hints = {"name": str, "class_names": tuple[str, ...], "image_shape": tuple[int, ...]}
    facts = {key: typed(hints[key], metadata[key], f"metadata.json: {key}") for key in hints}
    spec = registry.points_from_json(metadata["spec"], "metadata.json: spec")
    shape = facts["image_shape"] = facts["image_shape"] or None  # values at points have none
    if shape and (len(shape) != spec.in_dim or min(shape) < 1):
        raise ValueError(f"its images are of shape {shape}, on {spec.in_dim} coordinates")
    targets, classes = np.asarray(columns["label"]), len(facts["class_names"])
    if len(targets) and not 0 <= targets.min() <= targets.max() < classes:
        raise ValueError(f"its labels go from {targets.min()} to {targets.max()} of {classes}")
    weights = flat_weights.unflatten(np.asarray(columns["weights"]), spec.abstract())
    images = np.asarray(columns["image"]) if "image" in columns else np.arange(len(targets))
    several = len(np.unique(images)) < len(images)
    facts["images_N"] = images if several else None
    told = {"task": "classification", "num_outputs": classes, **facts}
    told["psnr_N"] = np.asarray(columns["psnr"]) if "psnr" in columns else None
    return Zoo(spec=spec, weights=weights, targets_N=targets, splits=rows, **told)


_CONFIGS = "configs/mnist.py is for INRs, configs/cifar10_wild_park.py for CNNs"
