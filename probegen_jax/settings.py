"""Reads and checks the command line and the config; every mistake is an error of one line."""

import math
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from probegen_jax.config_files import (
    config_argument,
    config_file,
    config_path,
    configs_to_import,
    shipped_configs,
    what_went_wrong,
)
from probegen_jax.errors import UserError, in_file
from probegen_jax.method.generators.registry import GENERATOR_ACTIVATIONS, METHODS
from probegen_jax.method.readouts.registry import READOUTS
from probegen_jax.method_settings import check_method
from probegen_jax.setting_types import check_types

_AT_LEAST_ONE = (
    *("num_probes", "head_width", "head_depth", "num_epochs", "batch_size", "num_seeds"),
    *("eval_every", "checkpoint_every"),
)
_INTERVALS = ("eval_every", "checkpoint_every")  # of any length: longer than the run means never
_LARGEST = 2**31 - 1  # what is counted on devices is int32
_DEEPEST = 100  # linear layers: XLA compiles each for itself
_BUCKETS = ("gs://", "s3://", "az://", "hf://")  # what checkpoints can be sent to
_SHARES = (
    *("label_smoothing", "dropout", "probe_dropout", "ema", "plateau_factor", "augment_scale"),
)
_NOT_NEGATIVE = (
    *("weight_decay", "probe_weight_decay", "rank_loss", "learning_rate_floor"),
    *("plateau_patience", "warmup_steps", "augment_shift", "augment_rotation", "test_views"),
)
# Keys that have one of a few values; the first is that of a config without the key.
_CHOICES: dict[str, tuple[str, ...]] = {
    "sine": ("auto", "fast", "exact"),
    "compute_dtype": ("float32", "bfloat16"),
    "schedule": ("cosine", "plateau"),
    "data.mode": ("auto", "resident", "stream"),
    "matmul_precision": ("auto", "highest", "high", "default"),
    "generator": ("convolutional", "dense"),
    "statnn_head": ("trees", "mlp"),
    "generator_activation": GENERATOR_ACTIVATIONS,
}

# Published zoos of values, which the published figures learn as they are.
_AS_PUBLISHED = ("cifar10_gs", "svhn_gs", "mnist_gs", "fmnist_gs", "cifar10_wild_park")


def parse(
    argv: Sequence[str], doc: str, define: Callable[[flags.FlagValues], None] = lambda values: None
) -> flags.FlagValues:
    """Reads a command line with `--config=FILE[:ARG]` and `--config.KEY=VALUE`.

    Returns:
      The flags; `.config` is the checked config, locked against new keys.

    Raises:
      UserError: anything wrong with the command line or in the config.
    """
    if {"-h", "--help"} & set(argv[1:]):
        print(doc.strip())
        sys.exit(0)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "FILE[:ARG]", flag_values=values)
    define(values)
    path = config_path(argv)
    argv, file = list(argv), config_file(path)
    place, value = config_argument(argv)
    _, colon, argument = value.partition(":")
    argv[place] = f"{argv[place].removesuffix(value)}{file}{colon}{argument}"
    actual_argv, sys.argv = sys.argv, argv  # where config_flags looks for --config.KEY
    try:
        with configs_to_import(file):
            extra = values(argv)[1:]
            getattr(values.config, "dataset", None)  # where a file's OSError is raised again
    except Exception as error:  # a config file is a program and can raise anything
        told = in_file(error, path, file, shipped_configs())
        told = told or f"{what_went_wrong(error, path)}; --help shows the usage"
        raise UserError(told) from error
    finally:
        sys.argv = actual_argv
    if extra:
        raise UserError(f"command line: {extra[0]!r} is not a flag; --help shows the usage")
    check(values.config, path)
    return values


def check(config: Any, path: pathlib.Path) -> None:
    """Refuses values that no run can use, naming key, value and remedy.

    Where the method decides how many probes there are, `num_probes` is set to that.

    Raises:
      UserError: the first such value.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() must return an ml_collections ConfigDict")
    _need(config, path, "dataset", "method", "learning_rate", "seed", "matmul_precision")
    _need(config, path, *_AT_LEAST_ONE)
    check_types(config, defaults(""), path)
    if config.method not in METHODS:
        raise UserError(
            f"method is {config.method!r}; choose from {', '.join(METHODS)}, as in "
            f"--config={path}:{list(METHODS)[1]},64"
        )
    _need(config, path, *METHODS[config.method].needed)
    own = [key for key in METHODS[config.method].settings if type(config.get(key)) is int]
    check_method(config, defaults("").num_probes)
    probed = METHODS[config.method].readout is None
    for key in (*own, *(key for key in _AT_LEAST_ONE if probed or key != "num_probes")):
        if config[key] < 1:
            raise UserError(f"{key} is {config[key]}; give at least 1 with --config.{key}=N")
        if key not in _INTERVALS and config[key] > _LARGEST:
            raise UserError(f"{key} is {config[key]}; give at most {_LARGEST}")
    for key in ("head_depth", "generator_depth"):
        if (config.get(key) or 1) > _DEEPEST:
            raise UserError(f"{key} is {config[key]}; give at most {_DEEPEST}")
    for key in ("learning_rate", "probe_learning_rate"):
        value = config.get(key)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{key} is {value}; it must be above 0 and finite")
    for key in (*_SHARES, *_NOT_NEGATIVE):
        if not 0 <= (value := config.get(key, 0.0)) < math.inf:
            raise UserError(f"{key} is {value}; it must be finite and not negative")
        if type(value) is int and value > _LARGEST:
            raise UserError(f"{key} is {value}; give at most {_LARGEST}")
        if key in _SHARES and value >= 1:
            raise UserError(f"{key} is {value}; it must be below 1")
    if config.seed < 0:
        raise UserError(f"seed is {config.seed}; it must not be negative")
    if (last := config.seed + config.num_seeds - 1) > _LARGEST:
        raise UserError(f"the last seed, seed + num_seeds - 1, is {last}; the most is {_LARGEST}")
    address = re.match(r"\w+://", config.get("checkpoint_dir") or "")
    if address and address[0] not in _BUCKETS:
        raise UserError(
            f"checkpoint_dir is {config.checkpoint_dir!r}; give a folder, or an address that "
            f"begins with {', '.join(_BUCKETS)}"
        )
    for key, least in (("keep_checkpoints", 1), ("mesh.seeds", 1)):
        value = nested(config, key, least)
        if value < least:
            raise UserError(f"{key} is {value}; give at least {least} with --config.{key}=N")
    if config.get("block_size") is not None and config.block_size < 1:
        raise UserError(f"block_size is {config.block_size}; it must be at least 1, or left out")
    # Readouts may have been added meanwhile.
    for key, choices in ({"readout": tuple(READOUTS)} | _CHOICES).items():
        value = nested(config, key, choices[0])
        if value not in choices:
            raise UserError(f"{key} is {value!r}; choose from {', '.join(choices)}")


def defaults(dataset: str) -> ConfigDict:
    """The paper's settings for INR zoos, which the configs and the Python API start from."""
    config = ConfigDict()
    # What each key means stands beside or above it; docs/settings.py makes a table of that.
    config.dataset = dataset  # the zoo's name
    config.data_dir = placeholder(str)  # where zoos are kept; None: the user's cache folder
    # A zoo of the same family that `build_zoo` made, used instead of the config's own.
    config.zoo_dir = placeholder(str)

    # Train on at most this many of the training networks, the same ones for every seed.
    config.max_train_networks = placeholder(int)

    # `probegen`, `vanilla` (every probe a free parameter), or, not trained, `uniform` (random
    # coordinates, for INRs), `pixels` (all pixels of an image, for INRs), `dead_leaves` (images of
    # opaque shapes, for CNNs) or `images` (real ones, for CNNs). Two methods read weights and do
    # not probe: `flat` (an MLP on all of them) and `statnn` (statistics of each array).
    config.method = "probegen"
    config.num_probes = 128  # probes, P; of `pixels`, pixels_size²
    config.pixels_size = 28  # for `pixels`: how many lie along each side of the image
    config.latent_dim = 32  # width of the latents
    # Linear layers of the generator, at most 100; transposed convolutions where it makes images.
    # None: as few as images of that side need: 5 for 32 to 56, 6 for 64 to 112, 7 for 128 to 224.
    config.generator_depth = 2
    # Of image generators: `convolutional`, or, to compare it with, `dense`: fully connected layers.
    config.generator = "convolutional"
    config.generator_width = 16  # of convolutional generators: channels before the last layer
    # Between the generator's layers, to compare linear ones with: `relu`, `gelu`, `tanh`, …
    config.generator_activation = "none"
    # For `dead_leaves`: `generated`, `published` (a download), or the path of a zip or a folder.
    config.dead_leaves = "generated"
    # For `images`: a folder of images, an `.npz` with the array images, `tfds:NAME` of a data set
    # that TFDS has prepared, or `digits`, `mnist`, `fashion_mnist` or `cifar10`.
    config.probe_images = placeholder(str)
    # What `statnn` predicts with: gradient-boosted `trees`, or the head, `mlp`.
    config.statnn_head = "trees"

    # What is read of the networks: `outputs`, what they answer, or `hidden`: what INRs, CNNs,
    # ResNets and ViTs compute on the way, too.
    config.readout = "outputs"
    config.head_width = 256  # of the head's hidden layers
    config.head_depth = 6  # linear layers of the head, at most 100

    # Folder of a run whose parameters training starts with, where they have the same names and
    # shapes: those that were best on validation. The rest is fresh.
    config.init_from = placeholder(str)
    config.num_epochs = 30  # times that training sees every network
    config.batch_size = 32  # networks in a step
    config.learning_rate = 3e-4  # Adam's at the first step; it falls as `schedule` says
    # Of what makes the probes, where that is trained; None: as `learning_rate`.
    config.probe_learning_rate = placeholder(float)
    # Each step takes this, times the learning rate, off the readout's kernels, as AdamW does.
    config.weight_decay = 0.0
    # Likewise off all that makes the probes, such as free probes themselves.
    config.probe_weight_decay = 0.0
    # Of the loss of classes: the share that counts for all classes evenly.
    config.label_smoothing = 0.0
    # In training, what INRs draw is moved at random: at most so far along each axis, of which an
    # image has 2 units,
    config.augment_shift = 0.0
    config.augment_rotation = 0.0  # turned by at most so many degrees,
    config.augment_scale = 0.0  # larger or smaller by at most this share,
    config.augment_flip = False  # or mirrored, left to right
    # Also score the mean prediction over each network and so many moves of it, drawn as those are.
    config.test_views = 0
    config.dropout = 0.0  # share of the head's hidden values that a step sets to 0
    config.probe_dropout = 0.0  # share of the probes' values that a step sets to 0
    # Decay, such as 0.999, of an average of all parameters over steps, which evaluations, the best
    # and the final model use; 0: they use the parameters themselves.
    config.ema = 0.0
    # Of values: the weight, beside the squared error, of a loss of the order of pairs in a batch.
    config.rank_loss = 0.0
    # Of learning rates: `cosine`, to 0 at the last step; or `plateau`: times `plateau_factor`, of
    # each seed for itself, once more than `plateau_patience` validations were no better.
    config.schedule = "cosine"
    config.plateau_factor = 0.5  # for `plateau`
    config.plateau_patience = 4  # for `plateau`, in validations, of which `eval_every` says when
    config.learning_rate_floor = 1e-6  # for `plateau`: `learning_rate` does not fall below
    config.warmup_steps = 0  # steps in which learning rates rise from 0
    config.seed = 0  # the first one, below 2**31
    config.num_seeds = 1  # seeds `seed`, `seed`+1, … are trained at once
    # How INRs' sines are computed: `fast` (an error of 2e-7 up to 10,000), `exact` (XLA's, slower),
    # or `auto`: fast unless a network's weights may take a sine beyond that.
    config.sine = "auto"
    # `bfloat16` for the convolutions of mixed CNNs to multiply in it; sums stay float32.
    config.compute_dtype = "float32"
    # Networks that run side by side, or, of mixed CNNs, probes. None: what long trainings measure
    # to be fastest on the device, and remember; short ones take the default.
    config.block_size = placeholder(int)
    # `highest` (float32), `high`, `default`, or `auto`: the cheapest that changes no figure, `high`
    # on a TPU and `highest` elsewhere; see cluster.md.
    config.matmul_precision = "auto"

    config.eval_every = 500  # steps between evaluations on the validation split
    config.checkpoint_every = 1000  # steps between checkpoints
    # Where to put checkpoints instead of the run folder: another folder, or a bucket's address.
    config.checkpoint_dir = placeholder(str)
    config.keep_checkpoints = 2  # how many of the latest to keep; each also holds the best

    # On several devices networks are split over all of them, and seeds over `seeds` groups of them.
    # `cpu_devices`: how many a CPU counts as, 0 for one per core.
    config.mesh = ConfigDict({"seeds": 1, "cpu_devices": 1})
    # `resident`: networks stay on the devices; `stream`: they are read when needed; `auto`:
    # resident if they fit.
    config.data = ConfigDict({"mode": "auto"})

    config.report = True  # whether to write report.html when training ends
    config.tensorboard = False  # whether to write logs for TensorBoard
    return config


def standardizes(config: Any) -> bool:
    """Whether a config, or a dict of it, asks for values to be learnt in units of their spread.

    Configs of before there was the setting learn them as they are.
    """
    asked = config.get("standardize", False)
    if asked is None:
        asked = config["dataset"] not in _AS_PUBLISHED or bool(config.get("zoo_dir"))
    return asked and config.get("task", "regression") == "regression"


def change(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets keys of a config to other values.

    Raises:
      UserError: an unknown key, or a value of another type.
    """
    try:
        config.lock().update(dict(values))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(what_went_wrong(error, pathlib.Path("settings"))) from error


def _need(config: ConfigDict, path: pathlib.Path, *keys: str) -> None:
    """Refuses a config without one of the keys."""
    for key in keys:
        if key not in config:
            raise UserError(f"{path}: the config lacks the key {key!r}")


def nested(config: ConfigDict, key: str, default: Any) -> Any:
    """The value of a key such as "mesh.seeds", or `default` where a config has no such key."""
    value: Any = config
    for part in key.split("."):
        if part not in value:
            return default
        value = value[part]
    return value
