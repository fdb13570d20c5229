"""CIFAR10-INR: SIRENs of CIFAR-10's images; which class is it? The paper's settings."""

from configs import common


def get_config(arg: str = ""):
    config = common.published_config_for("cifar10_inr", arg)
    config.pixels_size = 32
    return config
