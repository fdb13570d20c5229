"""What zoos hold: our own features, to which their files are held.

TFDS imports whatever module a `features.json` names. So none is ever given to it: features come
from here, and a file that says otherwise is refused, by what it says.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import MessageToDict

from probegen_jax.errors import UserError
from probegen_jax.networks.cnn import layer_table
from probegen_jax.networks.contract import typed
from probegen_jax.networks.siren import SirenSpec
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

    Args:
      folder: of the data set.
      metadata: content of its `metadata.json`.

    Raises:
      UserError: the files name others.
      KeyError, TypeError, ValueError: the metadata are not those of a built zoo.
    """
    family = metadata["family"]
    if family == "inr":
        known = inr(
            typed(SirenSpec, metadata["spec"], f"{folder / 'metadata.json'}: spec").num_weights
        )
    elif family == "cnn":
        known = cnn()
    else:
        raise ValueError(f"its family is {family!r}")
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

    Args:
      folder: of the data set.

    Raises:
      UserError: it names a class that is not TFDS's own.
      OSError, KeyError, TypeError, ValueError: it is not of TFDS, or not whole.
    """
    path = folder / "features.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("features.json is nested too deeply") from None
    top, features = content["pythonClassName"], content.get("featuresDict", {})
    _refuse_class(path, top, top == f"{_TFDS}features_dict.FeaturesDict")
    for feature in features["features"].values():
        name = feature["pythonClassName"]
        _refuse_class(path, name, isinstance(name, str) and name.startswith(_TFDS))
    return dict(features["features"])


def _refuse_class(path: pathlib.Path, name: Any, known: bool) -> None:
    if not known:
        raise UserError(
            f"{path}: asks for the class {str(name)[:200]!r}, which is none of TFDS's and no zoo "
            "needs; refused without importing it"
        )


def check(builder: tfds.core.DatasetBuilder) -> None:
    """Holds the files of a prepared zoo to the features of its builder, before they are read.

    Args:
      builder: with features of our own.

    Raises:
      UserError: `features.json` says otherwise.
      OSError, ValueError, ...: files are missing, or announce more than they can hold.
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
    on_disk = 0
    for split in SPLITS:
        for path in builder.info.splits[split].filepaths:
            if pathlib.Path(path).parent != folder:
                raise ValueError(f"{split} is said to lie in {path}")
            on_disk += pathlib.Path(path).stat().st_size
    number = sum(builder.info.splits[split].num_examples for split in SPLITS)
    each = sum(
        int(np.prod(feature.shape, dtype=np.int64)) * np.dtype(feature.np_dtype).itemsize
        for feature in builder.info.features.values()
        if None not in feature.shape and np.issubdtype(feature.np_dtype, np.number)
    )
    if number > on_disk or number * each > _FREE + _MOST_TIMES * on_disk:
        raise ValueError(f"{number:,} networks are announced in files of {on_disk:,} bytes")


def _short(content: Any) -> str:
    return "nothing" if content is None else json.dumps(content, sort_keys=True)[:200]
