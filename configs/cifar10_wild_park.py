"""CIFAR10 Wild Park: CNNs of mixed architectures; how accurate is each? The paper's settings."""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str = ""):
    config = common.published_config_for("cifar10_wild_park", arg)
    config.generator_depth = 5
    # `official` leaves out residual links, as the published figures were made; `faithful` keeps
    # them, as the networks were trained.
    config.fidelity = "official"
    # XLA runs a wide convolution on one core of a device. With one device per core, all cores work.
    config.mesh.cpu_devices = 0
    config.standardize = placeholder(bool)  # of values. None: only of a zoo_dir's
    return config
