"""Values that the configs share, and the reading of their argument. Not imported by the package."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from probegen_jax import settings


def published_config_for(dataset: str, arg: str) -> ConfigDict:
    """The paper's settings for a zoo that is downloaded, or found in a folder."""
    config = config_for(dataset, arg)
    # Folder with its files, in the published layout; None: they are downloaded.
    config.manual_dir = placeholder(str)
    # `official`, `seeded`, or `auto`: official where its file is, in manual_dir or splits_file.
    config.split = "auto"
    config.splits_file = placeholder(str)  # the official split, if it lies elsewhere
    # Whether to leave out networks that cannot be used, and list them, instead of stopping.
    config.skip_bad = False
    config.download_url = placeholder(str)  # another address of the archive
    config.download_sha256 = placeholder(str)  # what the archive's SHA-256 must be
    return config


def published_cnns_config_for(dataset: str, arg: str) -> ConfigDict:
    """Likewise, for a zoo of CNNs."""
    config = published_config_for(dataset, arg)
    # `official` pads the Small CNN Zoo's convolutions by one pixel and leaves out the Wild Park's
    # residual links, as ProbeGen's published figures were made; `faithful` runs networks as they
    # were trained, and is the default where there are no such figures: svhn_cropped, mnist and
    # fashion_mnist of `small_cnn_zoo.py`.
    config.fidelity = "official"
    config.standardize = placeholder(bool)  # of values, see `own_config_for`
    return config


def config_for(dataset: str, arg: str) -> ConfigDict:
    """The paper's settings for a data set.

    Args:
      dataset: name of the zoo.
      arg: what follows the colon in `--config=configs/FILE.py:ARG`: method, number of probes, or
        both, as in `vanilla,64`.
    """
    config = settings.defaults(dataset)
    for part in filter(None, arg.split(",")):
        if part.isdigit():
            config.num_probes = int(part)
        else:
            config.method = part
    return config


def own_config_for(dataset: str, arg: str, task: str = "classification") -> ConfigDict:
    """Settings for a zoo of the user's own files."""
    config = config_for(dataset, arg)
    config.networks_dir = placeholder(str)  # folder of the networks
    # CSV with the columns path (from that folder), target, and maybe split. Several classes of a
    # network stand in target with a `|` between them, or every class has a column of 0 and 1. Of
    # own_networks.py, a path may be that of a folder as Hugging Face writes it.
    config.targets_csv = placeholder(str)
    # `classification`, `multilabel` (several classes of a network, or none), or `regression`.
    config.task = task
    # Whether values are learnt less the mean of the training targets and in units of their standard
    # deviation, so that their scale does not matter; what is told is in their own unit. None: yes,
    # unless the zoo is a published one, whose published figures were made without.
    config.standardize = placeholder(bool)
    config.num_classes = 0  # 0: the classes that the CSV names; N: they are counted from 0 to N - 1
    # Share of validation, drawn by our seed, where the CSV has no column split.
    config.val_share = 0.1
    config.test_share = 0.2  # share of test, likewise
    # Whether to leave out networks that cannot be used, and list them, instead of stopping.
    config.skip_bad = False
    # Of the network to read, where files hold several, such as an average: `ema`
    config.state_key = placeholder(str)
    return config


def own_images_config_for(dataset: str, arg: str, task: str = "classification") -> ConfigDict:
    """Settings for a zoo of the user's own networks on images."""
    config = own_config_for(dataset, arg, task)
    # Side of the images that networks read. None: what the JSON, the config.json or the positions
    # of patches say; of ResNets, which read any, nothing does.
    config.image_size = placeholder(int)
    # How images were normalised, by channel, for `dead_leaves` and `images`. None: what the JSON
    # or, of own_networks.py, the preprocessor_config.json beside the first file says.
    config.pixel_mean = placeholder(tuple)
    config.pixel_std = placeholder(tuple)  # likewise
    config.generator_depth = None  # as deep as the images' side needs
    return config
