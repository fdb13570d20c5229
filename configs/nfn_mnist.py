"""NFN's MNIST-INR: a SIREN for each MNIST image; which digit is it? The paper's settings."""

from configs import common


def get_config(arg: str = ""):
    return common.published_config_for("nfn_mnist_inr", arg)
