"""Makes folders in the layouts of the published zoos, with real torch files written by torch."""

import collections
import contextlib
import csv
import dataclasses
import gzip
import itertools
import json
import pathlib
import sys
import tarfile
import types
import zipfile

import numpy as np

SIZES = (2, 32, 32, 1)
SEQ = ("seq.0", "seq.1", "seq.2")
NFN = ("net.0.linear", "net.1.linear", "net.2")


def inr_state(
    rng: np.random.Generator, channels: int = 1, layers: tuple[str, ...] = SEQ
) -> "collections.OrderedDict":
    import torch

    state = collections.OrderedDict()
    for layer, (m, n) in zip(layers, itertools.pairwise((*SIZES[:-1], channels)), strict=True):
        for name, shape in (("weight", (n, m)), ("bias", (n,))):
            values = rng.standard_normal(shape).astype(np.float32)
            state[f"{layer}.{name}"] = torch.from_numpy(values)
    return state


def nfn_inr(
    root: pathlib.Path, top: str, images: list[int], channels: int, copies: int = 0
) -> dict[str, tuple[dict, int]]:
    """Writes `root/top` as NFN's code reads it, with further copies; state and label by name."""
    rng = np.random.default_rng(3)
    networks = {}
    for ending in ("", *(f"_aug{copy}" for copy in range(copies))):
        for image in images:
            name = f"{top}/randinit_smaller{ending}_{image % 10}s/net{image}.pth"
            networks[name] = (inr_state(rng, channels, NFN), image % 10)
    for name, (state, _) in networks.items():
        _save(root / name, state)
    return networks


def mnist_inr(root: pathlib.Path, number: int = 200) -> dict[str, tuple[dict, int]]:
    """Writes `root/mnist-inrs`; returns state and label by name."""
    rng = np.random.default_rng(0)
    networks = {}
    for index in range(number):
        digit, part = index % 10, "testing" if index % 7 == 0 else "training"
        name = f"mnist-inrs/mnist_png_{part}_{digit}_{index}/checkpoints/model_final.pth"
        networks[name] = (inr_state(rng), digit)
    for name, (state, _) in networks.items():
        _save(root / name, state)
    # What the real archive holds besides.
    _save(root / "mnist-inrs/cifar10_png_training_cat_1/checkpoints/model_final.pth", {})
    (root / "mnist-inrs/README.txt").write_text("not a network")
    return networks


def fmnist_inr(root: pathlib.Path, number: int = 200) -> dict[str, tuple[dict, int]]:
    """Writes `root/fmnist_inrs` with labels inside the files; returns state and label by name."""
    rng = np.random.default_rng(1)
    networks = {}
    for index in range(number):
        part = "test" if index % 7 == 0 else "train"
        networks[f"fmnist_inrs/{part}/model_{index}.pth"] = (inr_state(rng), index % 10)
    for name, (state, label) in networks.items():
        content = state.copy()
        content["label"] = label
        _save(root / name, content)
    return networks


def inr_splits(path: pathlib.Path, networks: dict, label: type, prefix: str = "") -> dict:
    """Writes an official splits JSON; returns the names of each split."""
    test = [name for name in networks if "test" in name]
    others = [name for name in networks if "test" not in name]
    parts = {"train": others[15:], "val": others[:15], "test": test}
    content = {
        split: {
            "path": [prefix + name for name in names],
            "label": [label(networks[name][1]) for name in names],
        }
        for split, names in parts.items()
    }
    path.write_text(json.dumps(content))
    return parts


LAYOUT = """varname,start_idx,end_idx,size,shape
sequential/conv2d/bias:0,0,16,16,"(16,)"
sequential/conv2d/kernel:0,16,160,144,"(3, 3, 1, 16)"
sequential/conv2d_1/bias:0,160,176,16,"(16,)"
sequential/conv2d_1/kernel:0,176,2480,2304,"(3, 3, 16, 16)"
sequential/conv2d_2/bias:0,2480,2496,16,"(16,)"
sequential/conv2d_2/kernel:0,2496,4800,2304,"(3, 3, 16, 16)"
sequential/dense/bias:0,4800,4810,10,"(10,)"
sequential/dense/kernel:0,4810,4970,160,"(16, 10)"
"""
STEPS = (0, 1, 2, 3, 20, 40, 60, 80, 86)


def cifar10_gs(folder: pathlib.Path, number: int = 2000) -> tuple[np.ndarray, list[dict]]:
    """Writes weights.npy, metrics.csv.gz and layout.csv; returns the weights and the metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((number, 4970)).astype(np.float32)
    np.save(folder / "weights.npy", weights)
    rows = [
        {
            "": f"/zoo/run{index // len(STEPS)}/step_{STEPS[index % len(STEPS)]}",
            "config.activation": ("relu", "tanh")[index // len(STEPS) % 2],
            "config.w_init": "he_normal",
            "config.learning_rate": 0.01,
            "step": STEPS[index % len(STEPS)],
            "train_accuracy": rng.uniform(),
            "train_loss": 1.0,
            "test_accuracy": rng.uniform(),
            "test_loss": 2.0,
        }
        for index in range(number)
    ]
    write_metrics(folder / "metrics.csv.gz", rows)
    (folder / "layout.csv").write_text(LAYOUT)
    return weights, rows


# The parts of the Small CNN Zoo, and what they are called here.
PARTS = {
    "cifar10": "cifar10_gs",
    "svhn_cropped": "svhn_gs",
    "mnist": "mnist_gs",
    "fashion_mnist": "fmnist_gs",
}
# Columns of it that no reader here needs, or that say what is so of all networks.
ALWAYS = {
    "config.b_init": "zeros",
    "config.dnn_architecture": "cnn",
    "config.dropout": 0.0,
    "config.epochs": 86,
    "config.epochs_between_checkpoints": 20,
    "config.init_std": 0.05,
    "config.l2reg": 1e-5,
    "config.num_layers": 3,
    "config.num_units": 16,
    "config.optimizer": "adam",
    "config.random_seed": 42,
    "config.train_fraction": 0.5,
}


def small_cnn_zoo(
    folder: pathlib.Path, part: str, number: int = 270, activations: tuple[str, ...] = ()
) -> tuple[np.ndarray, list[dict]]:
    """Writes a part of the Small CNN Zoo with all published columns, by the alphabet."""
    weights, rows = cifar10_gs(folder, number)
    for index, row in enumerate(rows):
        row |= ALWAYS | {"config.dataset": part, "modeldir": row[""].rpartition("/")[0]}
        if activations:
            row["config.activation"] = activations[index // len(STEPS) % len(activations)]
    rows = [dict(sorted(row.items())) for row in rows]
    write_metrics(folder / "metrics.csv.gz", rows)
    return weights, rows


def small_cnn_archive(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Packs such a folder as published: its files under the name of the data set."""
    top = path.name.partition(".")[0]
    with tarfile.open(path, "w:xz", preset=0) as archive:
        for name in ("layout.csv", "metrics.csv.gz", "weights.npy"):
            archive.add(folder / name, f"{top}/{name}")


def write_metrics(path: pathlib.Path, rows: list[dict]) -> None:
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _save(path: pathlib.Path, content) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


PARK_ACTIVATIONS = ("relu", "gelu", "tanh", "sigmoid", "leaky_relu")


def cifar10_wild_park(root: pathlib.Path, runs: int = 20, checkpoints: int = 3) -> dict[str, dict]:
    """Writes `root/cifar10_zooV2` as the sampler does; returns what torch was given, by name."""
    import omegaconf
    import torch

    CNNConfig.__module__ = "create_random_cnns"
    rng = np.random.default_rng(3)
    networks = {}
    for run in range(runs):
        depth = int(rng.integers(2, 6))
        channels = [3, *rng.choice([4, 8, 16, 32], depth).tolist()]
        kernels = rng.choice([3, 5, 7], depth).tolist()
        plain = {
            "n_layers": depth,
            "n_classes": 10,
            "channels": channels,
            "kernel_size": kernels,
            "stride": [1] * depth,
            "padding": [k // 2 for k in kernels],
            "residual": [int(rng.integers(-1, i)) if i else -1 for i in range(depth)],
            "activation": rng.choice(PARK_ACTIVATIONS, depth).tolist(),
        }
        config = omegaconf.OmegaConf.structured(CNNConfig(**plain))
        for checkpoint in range(checkpoints):
            state = {}
            for i, (m, n) in enumerate(itertools.pairwise(channels)):
                state[f"layers.{i}.weight"] = torch.randn(n, m, kernels[i], kernels[i])
                state[f"layers.{i}.bias"] = torch.randn(n)
            state["fc.weight"] = torch.randn(10, channels[-1])
            state["fc.bias"] = torch.randn(10)
            content = {
                "model": collections.OrderedDict(state),
                "optimizer": {},
                "config": config,
                "iteration": 10 * checkpoint,
                "last_result": {"test/acc": float(rng.uniform()), "test/loss": 2.0},
            }
            name = f"cifar10_zooV2/run_{run:05}/checkpoint_{10 * checkpoint:06}/checkpoint.pt"
            networks[name] = {**content, "config": plain}
            with _importable(CNNConfig):
                _save(root / name, content)
    return networks


@dataclasses.dataclass
class CNNConfig:
    """What the sampler's configs are structured on; no reader has it."""

    n_layers: int
    n_classes: int
    channels: list[int]
    kernel_size: list[int]
    stride: list[int]
    padding: list[int]
    residual: list[int]
    activation: list[str]


@contextlib.contextmanager
def _importable(cls: type):
    """Makes the sampler's module exist while its class is pickled, and no longer."""
    module = types.ModuleType("create_random_cnns")
    module.CNNConfig = cls
    sys.modules["create_random_cnns"] = module
    try:
        yield
    finally:
        del sys.modules["create_random_cnns"]


def tarred(root: pathlib.Path, top: str, path: pathlib.Path) -> pathlib.Path:
    """A tar of `root/top`, without compression."""
    with tarfile.open(path, "w:") as archive:
        archive.add(root / top, top)
    return path


def zipped(root: pathlib.Path, top: str, path: pathlib.Path) -> pathlib.Path:
    """A zip of `root/top`, as the publishers made theirs."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((root / top).rglob("*")):
            archive.write(file, file.relative_to(root))
    return path
