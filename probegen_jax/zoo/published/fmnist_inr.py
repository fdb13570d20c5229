"""FMNIST-INR: a SIREN for each Fashion-MNIST image."""

import re

from probegen_jax.zoo.files.download import Address
from probegen_jax.zoo.published.inr import InrZooBuilder


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
