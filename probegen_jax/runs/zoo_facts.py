"""What tells the zoo of a run from another: its facts, which its folder and checkpoints keep."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.runs.zoo_from_config import BUILT_IN
from probegen_jax.zoo.zoo import Stored, Zoo

# Zoos with more weights than this are recognised by a sample of this many networks.
_MOST_BYTES, _SPREAD = 2 * 2**30, 1024
# Fields of specs that `Options` sets.
_HOW_IT_RUNS = ("block_size", "sine", "dtype")


def facts(zoo: Zoo, config: ConfigDict) -> dict[str, Any]:
    """Values that differ between two zoos of the same config.

    Args:
      config: of the run. Every machine makes its own built-in zoos, with its own rounding, so
        their weights are left out.
    """
    digest = hashlib.sha256(np.asarray(zoo.targets_N).tobytes())
    for split, rows in sorted(zoo.splits.items()):
        digest.update(f"{split} {len(rows)}".encode() + np.asarray(rows).tobytes())
    found = {
        "networks": len(zoo),
        "targets and splits": digest.hexdigest()[:16],
        "spec": _spec_digest(zoo.spec),
    }
    if config.get("zoo_dir") or config.dataset not in BUILT_IN:
        found["weights"] = _weights_digest(zoo)
    return found


def _spec_digest(spec: NetworkSpec) -> str:
    """A digest of what the networks compute, whatever their weights are."""
    fields = dataclasses.fields(spec) if dataclasses.is_dataclass(spec) else ()
    usual = {field.name: repr(field.default) for field in fields}
    # Without what has its default, so that a field that is new changes no digest.
    values = {
        name: value
        for name, value in spec.to_json().items()
        if name not in _HOW_IT_RUNS and repr(value) != usual.get(name)
    }
    family = type(spec).__qualname__
    # Fields of a family that is not ours may be anything; what they are called is told.
    text = json.dumps([family, values], sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _weights_digest(zoo: Zoo) -> str:
    """A digest of all weights or, if they are many, of networks spread evenly over the zoo."""
    weights = zoo.weights
    if isinstance(weights, Stored) and weights.digest is not None:
        return weights.digest[:16]
    many = isinstance(weights, Stored) or (
        sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) > _MOST_BYTES
    )
    if many:
        rows_N = np.unique(np.linspace(0, len(zoo) - 1, _SPREAD).astype(np.int64))
        weights = zoo.read(rows_N)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()[:16]
