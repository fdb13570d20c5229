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
