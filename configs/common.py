"""Values that the configs share, and the reading of their argument. Not imported by the package."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def published_config_for(dataset: str, arg: str) -> ConfigDict:
    """The paper's settings for a zoo that is downloaded, or found in a folder."""
    config = config_for(dataset, arg)
    # Where its files are, in the published layout; None: they are downloaded.
    config.manual_dir = placeholder(str)
    # "official", "seeded", or "auto": official where its file is, in manual_dir or splits_file.
    config.split = "auto"
    config.splits_file = placeholder(str)
    # Leave out networks that cannot be used, and list them, instead of stopping.
    config.skip_bad = False
    # Another address of the archive, and what its SHA-256 must be.
    config.download_url = placeholder(str)
    config.download_sha256 = placeholder(str)
    return config


def config_for(dataset: str, arg: str) -> ConfigDict:
    """The paper's settings for a data set.

    Args:
      dataset: name of the zoo.
      arg: what follows the colon in `--config=configs/FILE.py:ARG`: method, number of probes, or
        both, as in `vanilla,64`.
    """
    config = ConfigDict()
    config.dataset = dataset
    config.data_dir = placeholder(str)  # None: the user's cache folder
    # A zoo of the same family that `build_zoo` made, to be used instead.
    config.zoo_dir = placeholder(str)

    # Train on only so many of the training networks, the same ones for every seed.
    config.max_train_networks = placeholder(int)

    # The probes: where they come from and how many there are.
    config.method = "probegen"
    config.num_probes = 128
    config.latent_dim = 32
    config.generator_depth = 2
    config.generator_width = 16  # of image generators

    # For dead_leaves: "generated", "published" (a download), or the path of a zip or a folder.
    config.dead_leaves = "generated"

    # The head.
    config.head_width = 256
    config.head_depth = 6

    # Training.
    config.num_epochs = 30
    config.batch_size = 32
    config.learning_rate = 3e-4
    config.seed = 0
    config.num_seeds = 1
    config.matmul_precision = "highest"

    # Steps between evaluations on the validation split, and between checkpoints.
    config.eval_every = 500
    config.checkpoint_every = 1000

    # What is shown: a report.html when training ends; TensorBoard's files while it goes on.
    config.report = True
    config.tensorboard = False

    for part in filter(None, arg.split(",")):
        if part.isdigit():
            config.num_probes = int(part)
        else:
            config.method = part
    return config
