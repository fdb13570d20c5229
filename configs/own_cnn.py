"""CNNs of your own: a folder of .pth or .safetensors files and a CSV of targets."""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str = ""):
    config = common.config_for("own_cnn", arg)
    config.networks_dir = placeholder(str)  # folder of the networks
    # CSV with the columns path (from that folder), target, and maybe split.
    config.targets_csv = placeholder(str)
    config.task = "regression"  # or `classification`
    config.standardize = placeholder(bool)  # of values: their scale does not matter. None: yes
    config.num_classes = 0  # 0: the classes that the CSV names; N: they are counted from 0 to N - 1
    # Share of validation, drawn by our seed, where the CSV has no column split.
    config.val_share = 0.1
    config.test_share = 0.2  # share of test, likewise
    # Whether to leave out networks that cannot be used, and list them, instead of stopping.
    config.skip_bad = False
    # Of the network to read, where files hold several, such as an average: `ema`
    config.state_key = placeholder(str)

    # JSON with the layers of all networks, see zoos.md. None: NAME.json beside each NAME.pth that
    # has one, or else what arrays do not tell of the layers is said by the next four settings.
    config.architecture = placeholder(str)
    config.stride = placeholder(str)  # of CNNs: of all convolutions, or of each, as in `2,1,1`
    # Of CNNs: zeros on each side, of all convolutions or of each; `same` keeps the image's size.
    config.padding = placeholder(str)
    # Of CNNs: after all convolutions and linear layers but the last, or after each, as in
    # `relu,tanh`. Of INRs: see own_inr.py.
    config.activation = placeholder(str)
    # After all convolutions, or after each: `none`, `max2` (2×2 pixels), `avg2`, `max3/2` (3×3 with
    # stride 2).
    config.pool = placeholder(str)
    # Side of the images that networks read. None: what the JSON, the config.json or the positions
    # of patches say.
    config.image_size = placeholder(int)
    # How images were normalised, by channel, for `dead_leaves` and `images`. None: what the JSON
    # or, of own_networks.py, the preprocessor_config.json beside the first file says.
    config.pixel_mean = placeholder(tuple)
    config.pixel_std = placeholder(tuple)  # likewise

    config.generator_depth = None  # as deep as the images' side needs
    return config
