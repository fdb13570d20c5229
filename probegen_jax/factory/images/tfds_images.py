"""Labelled images of data sets that TFDS has prepared, read without TensorFlow.

Of `features.json` only what it says of the images and their classes is read, as data: TFDS itself
would import whatever module it names.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import Parse
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.proto import dataset_info_pb2
from tqdm import tqdm

from probegen_jax.errors import UserError
from probegen_jax.factory.images.files import Found, Part, part
from probegen_jax.zoo.prepared import schema

_MOST_CLASSES = 100_000


class _Labelled(read_only_builder.ReadOnlyBuilder, skip_registration=True):
    """A prepared data set of which an image and a class are read."""

    def __init__(self, folder: pathlib.Path, features: Mapping[str, Any]):
        self._ours = tfds.features.FeaturesDict(features)
        text = (folder / "dataset_info.json").read_text(encoding="utf-8")
        proto = Parse(text, dataset_info_pb2.DatasetInfo(), ignore_unknown_fields=True)
        proto.ClearField("features")
        proto.ClearField("module_name")
        super().__init__(folder, info_proto=proto)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=self._ours)


def read(name: str, data_dir: pathlib.Path | None) -> Found:
    """A data set that TFDS prepared as array_record, by its name, maybe with `/CONFIG`.

    It is looked for in `data_dir` and in `$TFDS_DATA_DIR` or `~/tensorflow_datasets`. A `UserError`
    if it is not prepared, not of labelled images, damaged, or with classes that are not TFDS's.
    """
    default = os.environ.get("TFDS_DATA_DIR") or pathlib.Path.home() / "tensorflow_datasets"
    roots = [root for root in (data_dir, pathlib.Path(default)) if root is not None]
    prepared = [path.parent for root in roots for path in (root / name).rglob("dataset_info.json")]
    if not prepared:
        raise _unprepared(name, f"is not prepared in {' or '.join(map(str, roots))}")
    folder = max(prepared, key=lambda path: path.name)
    try:
        return _read(name, folder)
    except UserError:
        raise
    # Files from elsewhere: TFDS, array_record and pillow raise whatever they stumble over.
    except Exception as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        told = f"tfds:{name}: cannot be read from {folder} ({what}); prepare it again with TFDS"
        raise UserError(told) from error


def _read(name: str, folder: pathlib.Path) -> Found:
    stored = schema.said(folder)
    features = {}
    for kind, feature_of in ((".Image", _image), (".ClassLabel", _label)):
        found = [key for key, said in stored.items() if said["pythonClassName"].endswith(kind)]
        if len(found) != 1:
            raise UserError(
                f"tfds:{name}: has {len(found)} features of type {kind[1:]}, not one; images with "
                "a class each are needed"
            )
        features[found[0]] = feature_of(stored[found[0]])
    image, label = features
    builder = _Labelled(folder, features)
    stored_as = builder.info.file_format
    if stored_as is not tfds.core.FileFormat.ARRAY_RECORD:
        shown = stored_as.value if stored_as else "something"
        raise _unprepared(name, f"is prepared as {shown}, which only TensorFlow reads")
    splits = [each for each in ("train", "test", "validation") if each in builder.info.splits]
    if "train" not in splits:
        raise UserError(f"tfds:{name}: has no split 'train' but {', '.join(builder.info.splits)}")
    parts = {split: _split(builder, split, image, label, f"tfds:{name}") for split in splits}
    names = tuple(builder.info.features[label].names)
    return Found(parts["train"], parts.get("test"), names, parts.get("validation"))


def _image(said: Mapping[str, Any]) -> tfds.features.Image:
    content = said["image"]
    dtype, coding = content.get("dtype", "uint8"), content.get("encodingFormat") or None
    if dtype not in ("uint8", "uint16", "float32") or coding not in (None, "png", "jpeg"):
        raise ValueError(f"images are {dtype}, stored as {coding}")
    sides = [int(side) for side in content.get("shape", {}).get("dimensions", ())]
    shape = tuple(None if side < 0 else side for side in sides) or (None, None, 3)
    return tfds.features.Image(shape=shape, dtype=np.dtype(dtype), encoding_format=coding)


def _label(said: Mapping[str, Any]) -> tfds.features.ClassLabel:
    number = int(said["classLabel"]["numClasses"])
    if not 1 <= number <= _MOST_CLASSES:
        raise ValueError(f"{number} classes")
    return tfds.features.ClassLabel(num_classes=number)


def _split(
    builder: tfds.core.DatasetBuilder, split: str, image: str, label: str, where: str
) -> Part:
    schema.files_of(builder, split)  # none is read from elsewhere
    examples = builder.as_data_source(split)
    images, labels = [], []
    for row in tqdm(range(len(examples)), desc="reading images", unit="image", disable=None):
        example = examples[row]
        images.append(example[image])
        labels.append(example[label])
        if images[-1].shape != images[0].shape:
            raise UserError(
                f"{where}: image {row} of {split!r} has shape {images[-1].shape}, the first "
                f"{images[0].shape}; only data sets of one size can be used"
            )
    return part(np.stack(images), np.asarray(labels), where)


def _unprepared(name: str, what: str) -> UserError:
    return UserError(
        f'tfds:{name}: {what}; where TensorFlow is installed, prepare it with: python -c "import '
        f"tensorflow_datasets as tfds; tfds.builder('{name}', file_format='array_record')"
        '.download_and_prepare()"'
    )
