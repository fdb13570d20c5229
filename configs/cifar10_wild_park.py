"""CIFAR10 Wild Park: CNNs of mixed architectures; how accurate is each? The paper's settings."""

from configs import common


def get_config(arg: str = ""):
    config = common.published_cnns_config_for("cifar10_wild_park", arg)
    config.generator_depth = 5
    # XLA runs a wide convolution on one core of a device. With one device per core, all cores work.
    config.mesh.cpu_devices = 0
    return config
