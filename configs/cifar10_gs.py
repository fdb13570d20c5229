"""CIFAR10-GS: CNNs of one architecture; how accurate is each? The paper's settings."""

from configs import common


def get_config(arg: str = ""):
    config = common.published_config_for("cifar10_gs", arg)
    config.generator_depth = 6
    config.num_epochs = 150
    # `official` pads CIFAR10-GS's convolutions by one pixel and leaves out the Wild Park's residual
    # links, as the published figures were made; `faithful` runs networks as they were trained.
    config.fidelity = "official"
    return config
