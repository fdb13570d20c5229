"""The Small CNN Zoo (Unterthiner et al., 2020): one architecture, everything else varies.

As published but for three values that set how long it takes, for the sake of a CPU; published are
`batch_size = 512`, `epochs = 86`, `checkpoints = (0, 1, 2, 3, 20, 40, 60, 80)` and
`train_images = 0` (all). The published images are grayscale.
"""

from ml_collections import ConfigDict


def get_space() -> ConfigDict:
    space = ConfigDict()
    space.layers = 3
    space.channels = 16
    space.kernel = 3
    space.stride = 2
    space.padding = "valid"
    space.activation = ("relu", "tanh")

    space.optimizer = ("adam", "sgd", "rmsprop")
    space.learning_rate = {"log_uniform": (5e-4, 5e-2)}
    space.momentum = 0.0
    space.w_init = ("glorot_normal", "he_normal", "orthogonal", "RandomNormal", "TruncatedNormal")
    space.init_std = {"log_uniform": (1e-3, 0.5)}
    space.l2reg = {"log_uniform": (1e-8, 1e-2)}
    space.dropout = {"uniform": (0.0, 0.7)}
    space.train_fraction = (0.1, 0.25, 0.5, 1.0)

    space.batch_size = 64
    space.epochs = 7
    space.checkpoints = ()
    space.train_images = 10_000
    space.test_images = 2_000
    space.pixels = "signed"
    return space
