"""The INR zoos of Navon et al. (2023): one torch file per network, below `train` or `test`."""

import pathlib
import re
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo import flat_weights, splits
from probegen_jax.zoo.files import inr_files
from probegen_jax.zoo.files.download import Address
from probegen_jax.zoo.files.state_dicts import Want
from probegen_jax.zoo.prepared import builders

NUM_CLASSES = 10


class InrZooBuilder(builders.ZooBuilder, skip_registration=True):
    """SIRENs with two hidden layers of 32, one per image or several, with the image's class."""

    SPEC: ClassVar = SirenSpec()
    KEYS: ClassVar = ReadOptions()
    HOMEPAGE: ClassVar = "https://github.com/AvivNavon/DWSNets"
    CITE: ClassVar = """@inproceedings{navon2023equivariant,
  title={Equivariant Architectures for Learning in Deep Weight Spaces},
  author={Navon, Aviv and Shamsian, Aviv and Achituve, Idan and Fetaya, Ethan and Chechik, Gal and
          Maron, Haggai},
  booktitle={International Conference on Machine Learning}, year={2023}}"""
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="official", description="as the official JSON says"),
        tfds.core.BuilderConfig(
            name="seeded",
            description="the published test images; validation drawn from the others by our seed",
        ),
    ]
    # Of a network's name: a group `test` that matches for test images, maybe a group `label`.
    NETWORK: ClassVar[re.Pattern[str]]

    def _info(self) -> tfds.core.DatasetInfo:
        return self._new_info(
            {
                "weights": builders.stored(self.SPEC.num_weights),
                "label": np.int32,
                "path": tfds.features.Text(),
            },
            self.HOMEPAGE,
            self.CITE,
        )

    def _plan(self, downloads: pathlib.Path) -> dict[str, list[Any]]:
        self._files = self._source(downloads)
        if self.builder_config.name == "official":
            return self.official_names(self.official_file(), "label", self._files)
        where, test, others = self._files.where, [], []
        for match in filter(None, map(self.NETWORK.fullmatch, sorted(self._files.names))):
            item = match[0], match.groupdict().get("label")
            (test if match["test"] else others).append(item)
        if not others or not test:
            what = "test" if others else "training"
            raise UserError(f"{where}: no networks for {what} found; expected {self.NEEDS}")
        return splits.seeded(others, splits.INR_VAL_SHARE, 0.0, where=where) | {"test": test}

    def _example(self, item: tuple[str, Any]) -> dict[str, Any]:
        name, label = item
        where = f"{self._files.where}/{name}"
        spec, keys = self.SPEC, self.KEYS
        want = Want(lambda config: spec.file_shapes(config, where, keys), notes=self.notes)
        file = inr_files.read(self._files.read(name), where, want)
        vector = flat_weights.flatten(spec.read(file.state, None, where, keys))
        label = file.label if label is None else label
        return {"weights": vector, "label": _checked_label(label, where), "path": name}


def _checked_label(label: Any, network: str) -> int:
    if label is None:
        raise BadNetworkError(
            network,
            "stores no label",
            "give the official splits file, which has the labels, with --config.splits_file",
        )
    if not str(label).isdecimal() or int(label) >= NUM_CLASSES:
        raise BadNetworkError(network, f"its label is {label!r}, outside 0 to {NUM_CLASSES - 1}")
    return int(label)


class MnistInr(InrZooBuilder):
    """MNIST-INR: a SIREN for each MNIST digit, labelled with the digit."""

    TOP = "mnist-inrs"
    SPLITS_FILE = "mnist_splits.json"
    ADDRESS = Address(
        "https://www.dropbox.com/sh/56pakaxe58z29mq/AABrctdu2U65jGYr2WQRzmMna/mnist-inrs.zip?dl=1",
        "mnist-inrs.zip",
    )
    NEEDS = (
        "mnist-inrs/mnist_png_{training,testing}_<digit>_<id>/checkpoints/model_final.pth, or "
        "mnist-inrs.zip"
    )
    # The archive also carries CIFAR-10 networks, which are not of this zoo.
    NETWORK = re.compile(
        r"mnist-inrs/mnist_png_(?:training|(?P<test>testing))_(?P<label>\d+)_[^/]+/"
        r"checkpoints/model_final\.pth"
    )


class FmnistInr(InrZooBuilder):
    """FMNIST-INR: a SIREN for each Fashion-MNIST image, labelled with the image's class."""

    TOP = "fmnist_inrs"
    SPLITS_FILE = "fmnist_splits.json"
    ADDRESS = Address(
        "https://www.dropbox.com/sh/56pakaxe58z29mq/AAAssoHq719OmSHSKKTiKKHGa/fmnist_inrs.zip?dl=1",
        "fmnist_inrs.zip",
    )
    NEEDS = "fmnist_inrs/{train,test}/model_<id>.pth, or fmnist_inrs.zip"
    NETWORK = re.compile(r"fmnist_inrs/(?:train|(?P<test>test))/model_\d+\.pth")
