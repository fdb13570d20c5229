"""Networks of your own that read images, or that a function of yours runs: files and a CSV."""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str = ""):
    config = common.own_images_config_for("own_networks", arg)
    # None: the networks' kind and sizes are found in the first file and in the config.json beside
    # it. `my_network.py:spec`: a function of yours; that file is run, see extending.md.
    config.network = placeholder(str)
    # Of vision transformers, where no config.json says it: heads of their attention.
    config.heads = placeholder(int)
    # Of their LayerNorms. None: what config.json says, or what their library takes.
    config.norm_eps = placeholder(float)
    # Of ResNets: stride of the first convolution, and whether 3×3 max pooling follows. None: 2 and
    # True if its kernel is 7×7, 1 and False if it is 3×3.
    config.stem_stride = placeholder(int)
    config.stem_pool = placeholder(bool)  # likewise
    config.strides = placeholder(tuple)  # of each stage. None: what config.json says, or 1, 2, 2, …
    # Whether a bottleneck's stride is that of its first convolution. None: what config.json says,
    # or no, as in all libraries today.
    config.stride_first = placeholder(bool)
    config.activation = placeholder(str)  # of ResNets. None: `relu`
    return config
