"""A built INR zoo as the published ones are laid out, for PyTorch code of others."""

import csv
import io
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from probegen_jax.factory import parts
from probegen_jax.files import write_json, write_text
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.points import PointSpec
from probegen_jax.networks.registry import points_from_json, to_json
from probegen_jax.networks.siren import NFN_KEYS, SirenSpec
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.files import inr_files, torch_files
from probegen_jax.zoo.prepared.reading import Columns
from probegen_jax.zoo.published import nfn


def export(
    folder: pathlib.Path,
    layout: str,
    columns: Columns,
    rows: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
) -> None:
    """Writes a torch file for each network, the splits JSON, and a CSV of targets.

    What an earlier call left is kept, so that a killed export goes on. The JSON comes last.

    Args:
      folder: where to; `--config.manual_dir=` of a config then.

    Raises:
      UserError: torch is not installed, or no space is left.
    """
    spec = points_from_json(dict(metadata["spec"]), "spec")
    labels, images, copies = (
        np.asarray(columns[key]).tolist() for key in ("label", "image", "copy")
    )
    networks = zip(labels, images, copies, strict=True)
    if layout == "nfn":
        top, keys = nfn_zoo(spec, metadata["name"]).TOP, NFN_KEYS
        names = [nfn.name_of(top, *network) for network in networks]
    else:
        keys, counts = ReadOptions(), (metadata["train_images"], max(copies) + 1)
        names = [_name(layout, *network, *counts) for network in networks]
    with parts.writing(folder):
        present = {path.relative_to(folder).as_posix() for path in folder.rglob("*.pth")}
        missing = [row for row, name in enumerate(names) if name not in present]
        stacked = flat_weights.unflatten(np.asarray(columns["weights"]), spec.abstract())
        for row in tqdm(missing, desc="exporting", unit="net", disable=None):
            network = jax.tree.map(lambda leaf, row=row: leaf[row], stacked)
            state = inr_files.to_state(network, keys)
            label = labels[row] if layout == "fmnist" else None
            path = folder / names[row]
            path.parent.mkdir(parents=True, exist_ok=True)
            torch_files.save_inr(path, state, label)
        # What `configs/own_inr.py` reads, for networks that are not of the published shape.
        targets = io.StringIO()
        lines = csv.writer(targets, lineterminator="\n")
        lines.writerow(["path", "target", "split"])
        lines.writerows([names[i], labels[i], split] for split, of in rows.items() for i in of)
        write_text(folder / "targets.csv", targets.getvalue())
        # MNIST's published labels are strings, FMNIST's are numbers.
        shown = [str(label) for label in labels] if layout == "mnist" else labels
        listed = {
            split: {"path": [names[i] for i in of], "label": [shown[i] for i in of]}
            for split, of in rows.items()
        }
        write_json(folder / f"{layout}_splits.json", listed)


def layout_of(name: str) -> str:
    """The published zoo that one of images of some name is like: "mnist", "fmnist" or "nfn"."""
    if name == "cifar10":
        return "nfn"
    return "fmnist" if "fashion" in name or "fmnist" in name else "mnist"


def nfn_zoo(spec: PointSpec, name: str) -> type[nfn.NfnInr]:
    """The one of NFN's zoos that networks of images of some name are laid out like."""
    if spec.out_dim > 1:
        return nfn.Cifar10Inr
    return nfn.NfnFmnistInr if layout_of(name) == "fmnist" else nfn.NfnMnistInr


def config_of(layout: str, spec: PointSpec, name: str) -> str:
    """The config for a zoo like a published one, as in `--config=configs/…`."""
    if layout != "nfn":
        return f"{layout}.py"
    configs = {nfn.NfnMnistInr: "nfn_mnist.py", nfn.NfnFmnistInr: "nfn_fmnist.py"}
    return configs.get(nfn_zoo(spec, name), "cifar10_inr.py")


def how_to_read(folder: pathlib.Path, layout: str, spec: PointSpec, name: str) -> str:
    """The flags with which `train` and `describe_zoo` read an export of images of some name."""
    if spec == (nfn_zoo(spec, name).SPEC if layout == "nfn" else SirenSpec()):
        config = config_of(layout, spec, name)
        return f"--config=configs/{config} --config.manual_dir={shlex.quote(str(folder))}"
    usual = to_json(SirenSpec()) | {"encoding": "none", "frequencies": 0}
    # Of how networks run, or start, nothing is told.
    usual |= dict.fromkeys(("kind", "sine", "block_size", "projection_std"), None)
    named = {"out_dim": "channels"}
    keys = {"layer_key": NFN_KEYS.layer_key, "last_layer_key": NFN_KEYS.last_layer_key}
    flags = {
        "networks_dir": folder,
        "targets_csv": folder / "targets.csv",
        **(keys if layout == "nfn" else {}),
        **{
            named.get(key, key): value
            for key, value in to_json(spec).items()
            if key not in usual or (usual[key] is not None and value != usual[key])
        },
    }
    told = (f"--config.{key}={value}" for key, value in flags.items() if value is not None)
    return " ".join(("--config=configs/own_inr.py", *map(shlex.quote, told)))


def _name(layout: str, label: int, image: int, copy: int, train_images: int, copies: int) -> str:
    """Path of a network's file; `image` counts through images to train on, then to test on."""
    test = image >= train_images
    number = image - train_images if test else image
    if layout == "fmnist":
        return f"fmnist_inrs/{'test' if test else 'train'}/model_{number * copies + copy}.pth"
    part = "testing" if test else "training"
    ending = f"_augmented_{copy}" if copies > 1 else ""
    folder = f"mnist_png_{part}_{label}_{number}{ending}"
    return f"mnist-inrs/{folder}/checkpoints/model_final.pth"
