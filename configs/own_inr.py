"""INRs of your own: a folder of .pth or .safetensors files and a CSV of targets."""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str = ""):
    config = common.config_for("own_inr", arg)
    config.networks_dir = placeholder(str)  # folder of the networks
    # CSV with the columns path (from that folder), target, and maybe split.
    config.targets_csv = placeholder(str)
    config.task = "classification"  # or `regression`
    config.standardize = placeholder(bool)  # of values: their scale does not matter. None: yes
    config.num_classes = 0  # 0: the classes that the CSV names; N: they are counted from 0 to N - 1
    # Share of validation, drawn by our seed, where the CSV has no column split.
    config.val_share = 0.1
    config.test_share = 0.2  # share of test, likewise
    # Whether to leave out networks that cannot be used, and list them, instead of stopping.
    config.skip_bad = False

    # Widths of the hidden layers, which are sin(w0·(Wx + b)); then follow a linear layer and the
    # shift.
    config.hidden = (32, 32)
    config.in_dim = 2  # coordinates
    config.channels = 1  # values at a coordinate
    config.w0 = 30.0  # factor inside every sine
    config.w0_first = placeholder(float)  # of the first layer, if it differs. siren-pytorch: 30
    config.output_shift = 0.5  # added to the output
    config.grid = "xy"  # order of coordinates; `ij`: the row comes first
    # Key before .weight and .bias; {} is the layer's number. NFN: `net.{}.linear`
    config.layer_key = "seq.{}"
    # Of the last layer, if it differs. NFN: `net.{}`. siren-pytorch: `last_layer`
    config.last_layer_key = placeholder(str)
    # Of the network to read, where files hold several, such as an average: `ema`
    config.state_key = placeholder(str)
    return config
