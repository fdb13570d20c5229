"""The INR zoos of Zhou et al. (2023), NFN's: their own key names, coordinates and folders."""

import pathlib
import re
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from probegen_jax.errors import UserError
from probegen_jax.networks.siren import NFN_KEYS, SirenSpec
from probegen_jax.zoo.files.download import Address
from probegen_jax.zoo.published.inr import InrZooBuilder

# How NFN's code splits, by the number of the image: validation begins at the first, test at the
# second. MNIST's images to train on go to 59,999, so that 20,000 are for test.
SPLIT_POINTS = 45_000, 50_000
GRAY = SirenSpec(output_shift=0.0, grid="ij")
COLOURS = SirenSpec(out_dim=3, output_shift=0.0, grid="ij")
_NETWORK = r"/randinit_smaller(?:_aug(?P<copy>\d+))?_(?P<label>\d+)s/net(?P<image>\d+)\.pth"
_FOLDER = "https://drive.google.com/drive/folders/15CdOTPWHqDcS4SwbIdm100rXkTYZPcC5"


def name_of(top: str, label: int, image: int, copy: int) -> str:
    """Path of a network's file; copies of an image count from 0."""
    ending = f"_aug{copy - 1}" if copy else ""
    return f"{top}/randinit_smaller{ending}_{label}s/net{image}.pth"


class NfnInr(InrZooBuilder, skip_registration=True):
    """SIRENs that draw images in [-1, 1], the row first; maybe several of a training image."""

    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="official", description="a network an image, split by its number as NFN's code"
        ),
        tfds.core.BuilderConfig(
            name="augmented", description="likewise, with all further networks of training images"
        ),
    ]
    AUTO = ("official",)
    KEYS = NFN_KEYS
    SPLITS_FILE = "nfn_splits.json"  # our own, of zoos that `build_zoo` made
    HOMEPAGE = "https://github.com/AllanYangZhou/nfn"
    CITE = """@inproceedings{zhou2023permutation,
  title={Permutation Equivariant Neural Functionals},
  author={Zhou, Allan and Yang, Kaien and Burns, Kaylee and Cardace, Adriano and Jiang, Yiding and
          Sokota, Samuel and Kolter, J. Zico and Finn, Chelsea},
  booktitle={Advances in Neural Information Processing Systems}, year={2023}}"""

    def _archive(self, downloads: pathlib.Path) -> pathlib.Path:
        if self.request.url is None:
            raise UserError(
                f"{self.name}: its files are on Google Drive, which asks before it gives large "
                f"ones; fetch {self.TOP}.tar from {_FOLDER}, and give the folder that it is in "
                "with --config.manual_dir=DIR"
            )
        return super()._archive(downloads)

    def _plan(self, downloads: pathlib.Path) -> dict[str, list[Any]]:
        self._files = self._source(downloads)
        if file := self.find_splits_file():
            return self.official_names(file, "label", self._files)
        parts: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
        first: dict[tuple[int, str | None], str] = {}
        pattern = re.compile(re.escape(self.TOP) + _NETWORK)
        for match in filter(None, map(pattern.fullmatch, sorted(self._files.names))):
            image, copy = int(match["image"]), match["copy"]
            if other := first.get((image, copy)):
                raise UserError(
                    f"{self._files.where}: {other} and {match[0]} are of one image; delete the "
                    "one of the wrong class"
                )
            first[image, copy] = match[0]
            split = "train" if image < SPLIT_POINTS[0] else "val"
            split = "test" if image >= SPLIT_POINTS[1] else split
            if copy is None or (split == "train" and self.builder_config.name == "augmented"):
                parts[split].append((match[0], match["label"]))
        return parts


class Cifar10Inr(NfnInr):
    """CIFAR10-INR: a SIREN for each CIFAR-10 image, labelled with its class."""

    TOP, SPEC = "siren_cifar_wts", COLOURS
    ADDRESS = Address(_FOLDER, "siren_cifar_wts.tar")
    NEEDS = "siren_cifar_wts/randinit_smaller_<class>s/net<number>.pth, or siren_cifar_wts.tar"


class NfnMnistInr(NfnInr):
    """NFN's MNIST-INR: a SIREN for each MNIST digit, labelled with the digit."""

    TOP, SPEC = "siren_mnist_wts", GRAY
    ADDRESS = Address(_FOLDER, "siren_mnist_wts.tar")
    NEEDS = "siren_mnist_wts/randinit_smaller_<class>s/net<number>.pth, or siren_mnist_wts.tar"


class NfnFmnistInr(NfnInr):
    """NFN's FMNIST-INR: a SIREN for each Fashion-MNIST image, labelled with its class."""

    TOP, SPEC = "siren_fashion_wts", GRAY
    ADDRESS = Address(_FOLDER, "siren_fashion_wts.tar")
    NEEDS = "siren_fashion_wts/randinit_smaller_<class>s/net<number>.pth, or siren_fashion_wts.tar"
