"""CNNs of your own: a folder of .pth or .safetensors files and a CSV of targets."""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str = ""):
    config = common.own_images_config_for("own_cnn", arg, task="regression")
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
    return config
