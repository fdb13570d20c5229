"""Networks of your own that read images, or that a function of yours runs: files and a CSV."""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str = ""):
    config = common.config_for("own_networks", arg)
    config.networks_dir = placeholder(str)  # folder of the networks
    # CSV with the columns path (from that folder), target, and maybe split. A path is that of a
    # file, or of a folder with config.json and model.safetensors, as Hugging Face writes them.
    config.targets_csv = placeholder(str)
    # `classification`, `multilabel` (several classes of a network, or none), or `regression`.
    config.task = "classification"
    config.standardize = placeholder(bool)  # of values: their scale does not matter. None: yes
    config.num_classes = 0  # 0: the classes that the CSV names; N: they are counted from 0 to N - 1
    # Share of validation, drawn by our seed, where the CSV has no column split.
    config.val_share = 0.1
    config.test_share = 0.2  # share of test, likewise
    # Whether to leave out networks that cannot be used, and list them, instead of stopping.
    config.skip_bad = False
    # Of the network to read, where files hold several, such as an average: `ema`
    config.state_key = placeholder(str)

    # None: the networks' kind and sizes are found in the first file and in the config.json beside
    # it. `my_network.py:spec`: a function of yours; that file is run, see extending.md.
    config.network = placeholder(str)
    # Side of the images that they read. None: what config.json or the positions of patches say; of
    # ResNets, which read any, nothing does.
    config.image_size = placeholder(int)
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
    # How images were normalised, by channel, for `dead_leaves`. None: what the
    # preprocessor_config.json beside the first file says.
    config.pixel_mean = placeholder(tuple)
    config.pixel_std = placeholder(tuple)  # likewise

    config.generator_depth = None  # as deep as the images' side needs
    return config
