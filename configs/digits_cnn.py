"""The built-in CNN zoo: classifiers of scikit-learn's digits; how accurate is each? No download."""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str = ""):
    config = common.config_for("digits_cnn", "64," + arg)
    config.generator_depth = 3  # 8×8 images: two doublings fewer than 32×32, where it is 5
    config.num_epochs = 30
    config.learning_rate = 1e-3
    config.num_seeds = 3
    config.eval_every = 100
    config.checkpoint_every = 500
    config.mesh.cpu_devices = 0  # small convolutions use a single core each
    config.standardize = placeholder(bool)  # of values. None: yes
    return config
