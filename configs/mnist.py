"""MNIST-INR: a SIREN for each MNIST digit; which digit is it? The paper's settings."""

from configs import common


def get_config(arg: str = ""):
    return common.published_config_for("mnist_inr", arg)
