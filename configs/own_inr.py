"""INRs of your own, SIRENs or other fields: .pth or .safetensors files and a CSV of targets."""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg: str = ""):
    config = common.own_config_for("own_inr", arg)
    # Widths of the hidden layers, in a SIREN sin(w0·(Wx + b)); then follow a linear layer and the
    # shift.
    config.hidden = (32, 32)
    config.in_dim = 2  # coordinates
    config.channels = 1  # values at a coordinate
    config.w0 = 30.0  # factor inside every sine
    config.w0_first = placeholder(float)  # of the first layer, if it differs. siren-pytorch: 30
    config.output_shift = 0.5  # added to the output
    config.grid = "xy"  # order of coordinates; `ij`: the row comes first
    # For other fields than SIRENs: `relu`, `gelu`, `tanh`, `sine`, `gaussian`, which is
    # exp(-x²/(2·width²)), or `gabor`: cos(w0·(Wx + b))·exp(-(width·(Vx + c))²).
    config.activation = placeholder(str)
    # What the first layer reads, if not the point x itself. `positional`: x, then sin and cos of
    # 2ⁿ·first_octave·x; `fourier`: sin and cos of 2π·Bx, where B is in the file.
    config.encoding = placeholder(str)
    config.frequencies = placeholder(int)  # of an encoding: octaves, or rows of B
    config.first_octave = placeholder(float)  # None: π, as in NeRF's paper; its code has 1
    config.width = placeholder(float)  # of a Gaussian or Gabor activation; None: 0.1
    # Key before .weight and .bias; {} is the layer's number. NFN: `net.{}.linear`
    config.layer_key = "seq.{}"
    # Of the last layer, if it differs. NFN: `net.{}`. siren-pytorch: `last_layer`
    config.last_layer_key = placeholder(str)
    # Of fields: the linear layers inside the wavelets' exp, and the matrix B (frequencies, in_dim).
    config.scale_key = placeholder(str)  # None: `scale.{}`. WIRE: `net.{}.scale`
    config.projection_key = placeholder(str)  # None: `B`
    # Whether the first layer reads cosines before sines, for `fourier`; None: no.
    config.cos_first = placeholder(bool)
    return config
