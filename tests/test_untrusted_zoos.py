"""Prepared zoos and images from somebody else: see `test_untrusted.py`."""

import io
import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from payload import Payload
from PIL import Image

from probegen_jax.errors import UserError
from probegen_jax.factory.images import sources
from probegen_jax.zoo.prepared import built_zoos, reading

TFDS = "tensorflow_datasets.core.features."


def change(path: pathlib.Path, edit) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(edit(content) or content))


def top(features, name="zoos.payload.X"):
    features["pythonClassName"] = name


def one(features, name="zoos.payload.X"):
    next(iter(features["featuresDict"]["features"].values()))["pythonClassName"] = name


def legacy(features):
    return {"type": "zoos.payload.X", "content": {}}


def another(features):
    features["featuresDict"]["features"]["more"] = {"pythonClassName": "zoos.payload.X"}


@pytest.mark.parametrize("edit", [top, one, legacy, another])
@pytest.mark.parametrize("family", ["inr", "cnn"])
def test_a_zoo_that_names_a_module_is_refused_and_nothing_is_imported(shared_zoo, family, edit):
    path = shared_zoo / family / "built_zoo" / "1.0.0" / "features.json"
    change(path, edit)
    with pytest.raises(UserError, match=r"zoos\.payload\.X|damaged") as error:
        built_zoos.load(shared_zoo / family, family)
    assert family in str(error.value)


def test_a_zoo_of_other_features_is_refused_by_name(shared_zoo):
    path = shared_zoo / "inr" / "built_zoo" / "1.0.0" / "features.json"
    original = path.read_text()

    def text(content):
        features = content["featuresDict"]["features"]
        features["label"] = {"pythonClassName": f"{TFDS}text_feature.Text", "text": {}}

    change(path, text)
    with pytest.raises(UserError, match=r"features\.json: says of 'label' .*Text"):
        built_zoos.load(shared_zoo / "inr", "inr")
    path.write_text(original)
    change(path, lambda content: content["featuresDict"]["features"].update(
        more=content["featuresDict"]["features"]["label"]))  # fmt: skip
    with pytest.raises(UserError, match="names the feature 'more', which no inr zoo has"):
        built_zoos.load(shared_zoo / "inr", "inr")


HOSTILE_METADATA = {
    "inr": {
        "spec": [
            {"hidden": [10**9, 10**9]}, {"hidden": ["__import__('os')"]}, {"w0": "30"}, [], None,
            {"hidden": [4], "sine": "payload"}, {"hidden": [4], "x": 1}, {"hidden": [60_000] * 9},
        ],
        "class_names": [[], "0123456789", [1] * 10, None, ["a"]],
        "image_shape": [[8], [10**12, 10**12], "8x8", None],
        "family": ["zoos.payload", ["inr"], None],
        "name": [7, None],
    },
    "cnn": {
        "image_shape": [[10**6, 10**6, 1], [60_000, 60_000, 1], "8", None],
        "family": [{}, "cnn "],
    },
}  # fmt: skip


@pytest.mark.parametrize("family", ["inr", "cnn"])
def test_hostile_metadata_of_a_zoo_are_told_in_one_line(shared_zoo, family):
    path = shared_zoo / family / "built_zoo" / "1.0.0" / "metadata.json"
    original = path.read_text()
    for key, values in HOSTILE_METADATA[family].items():
        for value in values:
            path.write_text(json.dumps(json.loads(original) | {key: value}))
            with pytest.raises(UserError):
                built_zoos.load(shared_zoo / family, family)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError):
        built_zoos.load(shared_zoo / family, family)
    path.write_text(original)
    assert len(built_zoos.load(shared_zoo / family, family)) >= 12


@pytest.mark.parametrize(
    "said",
    [
        {"shardLengths": [str(10**13)]},
        {"shardLengths": ["100000"]},
        {"filepathTemplate": "../../elsewhere-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"},
        {"name": "../train"},
    ],
)
def test_a_zoo_that_announces_more_than_it_has_is_refused(shared_zoo, said):
    path = shared_zoo / "inr" / "built_zoo" / "1.0.0" / "dataset_info.json"
    change(path, lambda content: content["splits"][0].update(said))
    with pytest.raises(UserError, match="is damaged"):
        built_zoos.load(shared_zoo / "inr", "inr")


def test_mapped_columns_with_objects_are_refused(shared_zoo, monkeypatch):
    monkeypatch.setattr(reading, "_LARGE", 1)
    built_zoos.load(shared_zoo / "inr", "inr")
    folder = shared_zoo / "inr" / "built_zoo" / "1.0.0" / "columns"
    number = len(np.load(folder / "label.npy"))
    for values in (np.array([Payload()] * number, object), np.zeros((number, 9)), np.zeros(10**4)):
        np.save(folder / "label.npy", values, allow_pickle=True)
        with pytest.raises(UserError, match="is damaged"):
            built_zoos.load(shared_zoo / "inr", "inr")


class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(__file__).parent

    def _info(self):
        image, label = tfds.features.Image(shape=(4, 4, 1)), tfds.features.ClassLabel(num_classes=2)
        features = {"id": tfds.features.Text(), "image": image, "label": label}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for row in range(8):
            file = io.BytesIO()
            Image.fromarray(np.full((4, 4), row, np.uint8)).save(file, "png")
            file.seek(0)
            yield row, {"id": str(row), "image": file, "label": row % 2}


@pytest.mark.parametrize("edit", [top, one, legacy, another])
def test_images_that_name_a_module_are_refused_and_nothing_is_imported(shared_zoo, edit):
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder = Pictures(data_dir=shared_zoo, file_format="array_record")
    builder.download_and_prepare(download_config=config)
    assert sources.load("tfds:pictures", data_dir=shared_zoo).image_shape == (4, 4, 1)
    change(shared_zoo / "pictures" / "1.0.0" / "features.json", edit)
    with pytest.raises(UserError, match=r"zoos\.payload\.X|cannot be read from"):
        sources.load("tfds:pictures", data_dir=shared_zoo)
    path = shared_zoo / "pictures" / "1.0.0" / "dataset_info.json"
    change(path, lambda content: content.update(moduleName="zoos.payload"))
    with pytest.raises(UserError):
        sources.load("tfds:pictures", data_dir=shared_zoo)
