"""The built-in zoo: one INR for each of scikit-learn's 1,797 digits. Needs no download."""

from configs import common


def get_config(arg: str = ""):
    config = common.config_for("digits", arg)
    config.pixels_size = 8
    config.num_epochs = 100
    config.learning_rate = 2e-3
    config.num_seeds = 3
    config.eval_every = 200
    return config
