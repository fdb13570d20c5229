"""The built-in zoo of ResNets, trained on five of the ten digits; of which five? No download."""

from configs import common


def get_config(arg: str = ""):
    config = common.config_for("digits_subsets", "64," + arg)
    config.generator_depth = 3  # 8×8 images: two doublings fewer than 32×32, where it is 5
    config.num_epochs = 30
    config.learning_rate = 1e-3
    config.num_seeds = 3
    config.eval_every = 100
    config.checkpoint_every = 500
    config.mesh.cpu_devices = 0  # small convolutions use a single core each
    return config
