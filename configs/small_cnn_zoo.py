"""The Small CNN Zoo: CNNs of one architecture; how accurate is each? The paper's settings.

  --config=configs/small_cnn_zoo.py:DATASET[,METHOD][,PROBES]

DATASET is what the networks were trained on: cifar10 (if nothing is given), svhn_cropped, mnist or
fashion_mnist.
"""

from configs import common

_ZOOS = {
    "cifar10": "cifar10_gs",
    "svhn_cropped": "svhn_gs",
    "mnist": "mnist_gs",
    "fashion_mnist": "fmnist_gs",
}


def get_config(arg: str = ""):
    part, _, others = (arg or "cifar10").partition(",")
    if part not in _ZOOS:
        raise ValueError(f"{part!r} is no part of the zoo; begin with {', '.join(_ZOOS)}")
    config = common.published_cnns_config_for(_ZOOS[part], others)
    config.generator_depth = 6
    config.num_epochs = 150
    if part != "cifar10":  # the one with published figures
        config.fidelity = "faithful"
    return config
