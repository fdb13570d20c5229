"""What zoos hold: our own features, to which their files are held.

TFDS imports whatever module a `features.json` names. So none is ever given to it: features come
from here, and a file that says otherwise is refused, by what it says.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import MessageToDict

from probegen_jax.errors import UserError
from probegen_jax.networks.cnn import layer_table
from probegen_jax.networks.registry import points_from_json
from probegen_jax.zoo.prepared.builders import stored
from probegen_jax.zoo.zoo import SPLITS

# Of a built CNN's training, by the name of the feature: as in the Small CNN Zoo's metrics.
SETTINGS = ("optimizer", "w_init", "learning_rate", "momentum", "init_std", "init_scale", "l2reg")
SETTINGS += ("dropout", "train_fraction", "epochs")
TEXT = ("optimizer", "w_init")
METRICS = ("train_accuracy", "train_loss", "test_loss")

# Arrays this much larger than their files are made up: weights hardly compress.
_FREE, _MOST_TIMES = 2**30, 1000

_TFDS = "tensorflow_datasets.core.features."  # before the names of its classes

Features = dict[str, Any]


def inr(num_weights: int) -> Features:
    """Of an INR zoo that was built: weights, class, and how it was fitted."""
    numbers = dict.fromkeys(("label", "image", "copy", "starts"), np.int32)
    return {"weights": stored(num_weights), "psnr": np.float32, **numbers}


def cnn() -> Features:
    """Of a CNN zoo that was built: those of the Wild Park, metrics, and how it was trained."""
    return {
        "layers": stored(None, len(layer_table.COLUMNS), dtype=np.int32),
        "weights": stored(None),
        "num_classes": np.int32,
        "score": np.float32,  # accuracy on the test images
        **dict.fromkeys(METRICS, np.float32),
        "iteration": np.int32,  # epoch of the checkpoint, or step where the space counts steps
        "run": np.int32,
        **{name: tfds.features.Text() if name in TEXT else np.float32 for name in SETTINGS},
    }


def of_built(folder: pathlib.Path, metadata: Mapping[str, Any]) -> Features:
    """The features of a built zoo: those of its family that its files have.

    A `UserError` if the files name others; another error of metadata that are of no built zoo.
    """
    family, where = metadata["family"], f"{folder / 'metadata.json'}: spec"
    if family not in ("inr", "cnn"):
        raise ValueError(f"its family is {family!r}")
    known = cnn() if family == "cnn" else inr(points_from_json(metadata["spec"], where).num_weights)
    held = said(folder)
    unknown = sorted(held.keys() - known.keys())
    if unknown:
        raise UserError(
            f"{folder / 'features.json'}: names the feature {unknown[0]!r}, which no {family} zoo "
            "has; get the zoo again from where it was built"
        )
    return {name: feature for name, feature in known.items() if name in held}


def said(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """What a `features.json` says of each feature. It is read as data; nothing is imported.

    A `UserError` if it names a class that is not TFDS's own; another error if it is not whole.
    """
    path = folder / "features.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("features.json is nested too deeply") from None
    top, features = content["pythonClassName"], content["featuresDict"]["features"]
    names = [feature["pythonClassName"] for feature in features.values()]
    refused = [name for name in names if not str(name).startswith(_TFDS)]
    for name in refused if top == f"{_TFDS}features_dict.FeaturesDict" else [top]:
        raise UserError(
            f"{path}: asks for the class {str(name)[:200]!r}, which is none of TFDS's and no zoo "
            "needs; refused without importing it"
        )
    return dict(features)


def fixed(feature: Any) -> bool:
    """Whether it is as many numbers for each network, so that those of all are one array."""
    return None not in feature.shape and np.issubdtype(feature.np_dtype, np.number)


def files_of(builder: tfds.core.DatasetBuilder, split: str) -> list[pathlib.Path]:
    """The files of a split; a `ValueError` if one is said to lie outside the data set's folder."""
    files = [pathlib.Path(path) for path in builder.info.splits[split].filepaths]
    for path in files:
        if path.parent != pathlib.Path(builder.data_dir):
            raise ValueError(f"{split} is said to lie in {path}")
    return files


def check(builder: tfds.core.DatasetBuilder) -> int:
    """Holds the files of a prepared zoo to the features of its builder, which are our own.

    Returns the bytes of all networks in memory, but for arrays whose shape varies. A `UserError`
    if `features.json` says otherwise; another error if files are missing, or announce more than
    they can hold.
    """
    folder = pathlib.Path(builder.data_dir)
    ours = MessageToDict(builder.info.features.to_proto())["featuresDict"]["features"]
    theirs = said(folder)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"{folder / 'features.json'}: says of {name!r} {_short(theirs.get(name))}, where "
                f"this kind of zoo has {_short(ours.get(name))}; delete {folder} and get the zoo "
                "again"
            )
    on_disk = sum(path.stat().st_size for split in SPLITS for path in files_of(builder, split))
    number = sum(builder.info.splits[split].num_examples for split in SPLITS)
    arrays = [feature for feature in builder.info.features.values() if fixed(feature)]
    unpacked = number * sum(math.prod(a.shape) * np.dtype(a.np_dtype).itemsize for a in arrays)
    if number > on_disk or unpacked > _FREE + _MOST_TIMES * on_disk:
        raise ValueError(f"{number:,} networks are announced in files of {on_disk:,} bytes")
    return unpacked


def _short(content: Any) -> str:
    return "nothing" if content is None else json.dumps(content, sort_keys=True)[:200]
