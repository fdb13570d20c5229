"""Values that the configs share, and the reading of their argument. Not imported by the package."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


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
    config = ConfigDict()
    # What each key means stands beside or above it; docs/settings.py makes a table of that.
    config.dataset = dataset  # the zoo's name
    config.data_dir = placeholder(str)  # where zoos are kept; None: the user's cache folder
    # A zoo of the same family that `build_zoo` made, to be used instead.
    config.zoo_dir = placeholder(str)

    # Train on only so many of the training networks, the same ones for every seed.
    config.max_train_networks = placeholder(int)

    # `probegen`, `vanilla` (every probe a free parameter), or, not trained, `uniform` (random
    # coordinates, for INRs) or `dead_leaves` (images of opaque shapes, for CNNs).
    config.method = "probegen"
    config.num_probes = 128  # probes, P
    config.latent_dim = 32  # width of the latents
    # Linear layers of the generator; transposed convolutions where it makes images.
    config.generator_depth = 2
    config.generator_width = 16  # of image generators: channels before the last layer
    # For `dead_leaves`: `generated`, `published` (a download), or the path of a zip or a folder.
    config.dead_leaves = "generated"

    config.head_width = 256  # of the head's hidden layers
    config.head_depth = 6  # linear layers of the head

    config.num_epochs = 30  # times that training sees every network
    config.batch_size = 32  # networks in a step
    config.learning_rate = 3e-4  # Adam's at the first step; it falls to 0 along a cosine
    config.seed = 0  # the first one
    config.num_seeds = 1  # seeds `seed`, `seed`+1, … are trained at once
    # How INRs' sines are computed: `fast` (an error of 2e-7 up to 10,000), `exact` (XLA's, slower),
    # or `auto`: fast unless a network's weights may take a sine beyond that.
    config.sine = "auto"
    # `bfloat16` for the convolutions of mixed CNNs to multiply in it; sums stay float32.
    config.compute_dtype = "float32"
    # Networks that run side by side, or, of mixed CNNs, probes. None: what long trainings measure
    # to be fastest on the device, and remember; short ones take the default.
    config.block_size = placeholder(int)
    # `highest` (float32 everywhere), `high`, or `default` (TF32 on a GPU).
    config.matmul_precision = "highest"

    config.eval_every = 500  # steps between evaluations on the validation split
    config.checkpoint_every = 1000  # steps between checkpoints
    # Where checkpoints go, if not into the run folder: another folder, or a bucket's address.
    config.checkpoint_dir = placeholder(str)
    config.keep_checkpoints = 2  # how many of the last stay; each also holds the best on validation

    # On several devices networks are split over all of them, and seeds over `seeds` groups of them.
    # `cpu_devices`: how many a CPU counts as, 0 for one per core.
    config.mesh = ConfigDict({"seeds": 1, "cpu_devices": 1})
    # `resident`: networks lie on the devices; `stream`: they are read as they are needed; `auto`:
    # resident if they fit.
    config.data = ConfigDict({"mode": "auto"})

    config.report = True  # whether to draw report.html when training ends
    config.tensorboard = False  # whether to write for TensorBoard as well

    for part in filter(None, arg.split(",")):
        if part.isdigit():
            config.num_probes = int(part)
        else:
            config.method = part
    return config
