"""Mixed architectures of the Wild Park's kinds, one network of each, for whole images.

Channels and kernels are smaller than in `wild_park`, and initial weights larger, so that a
thousand small steps on images of MNIST's size take networks from chance to 0.9.
"""

from ml_collections import ConfigDict


def get_space() -> ConfigDict:
    space = ConfigDict()
    space.layers = (2, 3, 4, 5)
    space.channels = (4, 8, 16)
    space.kernel = (3, 5)
    space.stride = 1
    space.padding = "same"
    space.activation = {
        "choice": ("relu", "gelu", "leaky_relu", "tanh", "sigmoid"),
        "shares": (0.25, 0.25, 0.25, 0.2, 0.05),
    }
    space.per_layer = ("channels", "kernel", "activation")
    space.residual = "not_adjacent"
    space.networks_per_architecture = 1

    space.optimizer = "adam"
    space.learning_rate = {"log_uniform": (2e-3, 1e-2)}
    space.init_scale = {"log_uniform": (1.2, 2.5)}

    space.batch_size = 8
    space.epochs = 8
    space.checkpoints = (2,)
    space.train_images = 1_000
    space.test_images = 500
    space.pixels = "standard"
    return space
