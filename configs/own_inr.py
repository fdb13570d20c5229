"""INRs of your own: a folder of .pth or .safetensors files and a CSV of targets."""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str = ""):
    config = common.config_for("own_inr", arg)
    # The networks, and a CSV with the columns path (from that folder), target, and maybe split.
    config.networks_dir = placeholder(str)
    config.targets_csv = placeholder(str)
    config.task = "classification"  # or "regression"
    config.num_classes = 0  # 0: one more than the largest target
    # Shares of validation and test, drawn by our seed, where the CSV has no column split.
    config.val_share = 0.1
    config.test_share = 0.2
    config.skip_bad = False

    # The networks: sin(w0·(Wx + b)) in each hidden layer, then a linear one, then the shift.
    config.hidden = (32, 32)
    config.in_dim = 2
    config.channels = 1
    config.w0 = 30.0
    config.output_shift = 0.5
    config.grid = "xy"  # "ij": the row comes first
    # Keys before .weight and .bias; {} is the layer's number. NFN: net.{}.linear, last net.{}
    config.layer_key = "seq.{}"
    config.last_layer_key = placeholder(str)
    return config
