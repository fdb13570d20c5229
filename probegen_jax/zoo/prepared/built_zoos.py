"""Zoos that `build_zoo` made, from their folder to zoos that can be probed."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.networks.contract import typed
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.prepared.builders import damaged
from probegen_jax.zoo.prepared.reading import Columns, read
from probegen_jax.zoo.zoo import Zoo


def load(folder: pathlib.Path, family: str | None, fidelity: str = "faithful") -> Zoo:
    """A built zoo, with weights on the host.

    Args:
      folder: of the build, its `--out`.
      family: "inr" or "cnn", as the config expects; None for any.
      fidelity: of CNN zoos: "faithful" runs networks as they were trained, "official" as ProbeGen's
        published code does.

    Raises:
      UserError: no zoo there, of another family, or damaged.
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
        return _FAMILIES[metadata["family"]](columns, rows, metadata, fidelity)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise damaged(builder.folder, error) from error


@dataclasses.dataclass(frozen=True)
class _InrFacts:
    """What `metadata.json` says of an INR zoo besides its spec."""

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int]


def _inr(
    columns: Columns, rows: dict[str, np.ndarray], metadata: Mapping[str, Any], fidelity: str
) -> Zoo:
    spec = SirenSpec.from_json(metadata["spec"])
    said = {field.name: metadata[field.name] for field in dataclasses.fields(_InrFacts)}
    facts = typed(_InrFacts, said, "metadata.json")
    targets, classes = np.asarray(columns["label"]), len(facts.class_names)
    if len(targets) and not 0 <= targets.min() <= targets.max() < classes:
        raise ValueError(f"its labels go from {targets.min()} to {targets.max()} of {classes}")
    weights = flat_weights.unflatten(np.asarray(columns["weights"]), spec.abstract())
    shown = {"image_shape": facts.image_shape, "class_names": facts.class_names}
    return Zoo(facts.name, spec, weights, targets, rows, "classification", classes, **shown)


def _cnn(
    columns: Columns, rows: dict[str, np.ndarray], metadata: Mapping[str, Any], fidelity: str
) -> Zoo:
    from probegen_jax.zoo.prepared import cnn_zoos

    return cnn_zoos.built(columns, rows, metadata, fidelity)


_FAMILIES: dict[str, Callable[..., Zoo]] = {"inr": _inr, "cnn": _cnn}
_CONFIGS = "configs/mnist.py is for INRs, configs/cifar10_wild_park.py for CNNs"
