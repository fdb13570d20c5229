"""NFN's FMNIST-INR: SIRENs of Fashion-MNIST images; which class is it? The paper's settings."""

from configs import common


def get_config(arg: str = ""):
    return common.published_config_for("nfn_fmnist_inr", arg)
