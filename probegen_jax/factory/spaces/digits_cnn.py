"""The built-in zoo: small CNNs of many architectures for 8×8 images, quick to train.

Layers keep the image's size, so any earlier layer can be the source of a residual link. Sigmoids
are rarer: most networks with two of them learn nothing in so few steps, and a zoo should not be
mostly chance.
"""

from ml_collections import ConfigDict


def get_space() -> ConfigDict:
    space = ConfigDict()
    space.layers = (2, 3, 4)
    space.channels = (4, 8, 16)
    space.kernel = {"choice": (3, 5), "shares": (0.7, 0.3)}
    space.activation = {
        "choice": ("relu", "gelu", "tanh", "leaky_relu", "sigmoid"),
        "shares": (0.225, 0.225, 0.225, 0.225, 0.1),
    }
    space.per_layer = ("channels", "kernel", "activation")
    space.residual = 0.4
    space.networks_per_architecture = 8

    space.learning_rate = {"log_uniform": (0.00316, 0.0398)}
    space.init_scale = {"log_uniform": (0.63, 3.16)}
    space.train_fraction = (0.05, 0.1, 0.25, 0.5, 1.0)

    space.batch_size = 32
    space.steps = {"log_uniform": (50, 250)}
    return space
