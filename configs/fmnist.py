"""FMNIST-INR: a SIREN for each Fashion-MNIST image; which class is it? The paper's settings."""

from configs import common


def get_config(arg: str = ""):
    return common.published_config_for("fmnist_inr", arg)
