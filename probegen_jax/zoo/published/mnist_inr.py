"""MNIST-INR: a SIREN for each MNIST digit."""

import re

from probegen_jax.zoo.files.download import Address
from probegen_jax.zoo.published.inr import InrZooBuilder


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
