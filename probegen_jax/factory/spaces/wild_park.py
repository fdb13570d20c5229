"""The CNN Wild Park (Kofinas et al., 2024): mixed architectures with residual links.

Architectures are drawn as Neural Graphs' sampler draws them. Training is shorter than published,
for the sake of a CPU, and learning rate and initial scale vary, so that short runs differ as much
as long ones do. Published are one network of each architecture, trained on all images by one
optimizer, and kept after every few of some dozens of epochs.
"""

from ml_collections import ConfigDict


def get_space() -> ConfigDict:
    space = ConfigDict()
    space.layers = (2, 3, 4, 5)
    space.channels = (4, 8, 16, 32)
    space.kernel = (3, 5, 7)
    space.stride = 1
    space.padding = "same"
    space.activation = ("relu", "gelu", "tanh", "sigmoid", "leaky_relu")
    space.per_layer = ("channels", "kernel", "activation")
    space.residual = "not_adjacent"
    space.networks_per_architecture = 4

    space.optimizer = "adam"
    space.learning_rate = {"log_uniform": (1e-3, 1e-2)}
    space.init_scale = {"log_uniform": (0.7, 2.0)}

    space.batch_size = 32
    space.epochs = 4
    space.checkpoints = (0, 1, 2)
    space.train_images = 1_000
    space.test_images = 500
    space.pixels = "standard"
    return space
