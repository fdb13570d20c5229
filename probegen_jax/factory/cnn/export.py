"""Built CNN zoos in the layouts of the published ones, for code that reads those.

A zoo of the Small CNN Zoo's one architecture becomes `weights.npy`, `metrics.csv.gz` and
`layout.csv`; any other becomes the Wild Park's checkpoints and splits file.
"""

import csv
import gzip
import io
import pathlib
import shutil
from typing import Any

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.files import replacing, write_json
from probegen_jax.networks.cnn import layer_table, state_dict
from probegen_jax.networks.cnn.layer_table import ParkNetwork
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.files import small_cnn_files, torch_files
from probegen_jax.zoo.prepared import build_folder
from probegen_jax.zoo.prepared.reading import Columns, read
from probegen_jax.zoo.published.cifar10_wild_park import Cifar10WildPark
from probegen_jax.zoo.published.small_cnn_zoo import PARTS

_PARTS = {(part.TOP, part.SIDE) for part in PARTS}


def export(out: pathlib.Path, images: str) -> None:
    """Writes a built zoo's networks to `out/torch`: all of them, or nothing.

    Raises:
      UserError: torch is not installed, or no space left.
    """
    folder = out / "torch"
    if folder.exists():
        return
    builder = build_folder.opened(out)
    columns, rows = read(builder)
    seed = int(builder.info.metadata["plan"]["seed"])
    small = is_small_cnn_zoo(columns["layers"])
    for leftover in out.glob(".torch.*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with replacing(folder) as temporary:
            temporary.mkdir()
            if small:
                _small_cnn_zoo(temporary, columns, images, seed)
            else:
                _wild_park(temporary, columns, rows)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror or error}); free some space and run the same "
            "command again"
        ) from error
    # Of the parts of the Small CNN Zoo there is a config that knows the images' size.
    known = small and (images, builder.info.metadata["image_shape"][0]) in _PARTS
    config = f"--config=configs/small_cnn_zoo.py:{images} " if known else ""
    print(f"torch files in {folder}; read them with {config}--config.manual_dir={folder}")


def is_small_cnn_zoo(layers: Any) -> bool:
    """Whether all networks, each a `layer_table`, are of the Small CNN Zoo's architecture."""
    for table in layers:
        first = int(table[0, layer_table.COLUMNS.index("activation")])
        if table.tolist() != [[inputs, 16, 3, 2, 0, first, -1] for inputs in (1, 16, 16)]:
            return False
        if layer_table.ACTIVATIONS[first] not in small_cnn_files.ACTIVATIONS:
            return False
    return True


def _small_cnn_zoo(folder: pathlib.Path, columns: Columns, images: str, seed: int) -> None:
    # Networks in the order of their runs and epochs, as published; the split is the reader's.
    order = np.lexsort((columns["iteration"], columns["run"])).tolist()
    shape = len(order), small_cnn_files.NUM_WEIGHTS
    weights = np.lib.format.open_memmap(folder / small_cnn_files.WEIGHTS, "w+", np.float32, shape)
    records = []
    for row, n in enumerate(order):
        network = ParkNetwork(columns["layers"][n], columns["weights"][n], 10)
        arrays = network.arrays()
        # The published order has each bias before its kernel, as trees have.
        weights[row] = flat_weights.flatten((*arrays["layers"], arrays["head"]))
        run, epoch = f"run_{columns['run'][n]:05}", int(columns["iteration"][n])
        texts = {name: columns[name][n].decode() for name in ("optimizer", "w_init")}
        numbers = ("dropout", "init_std", "l2reg", "learning_rate", "train_fraction")
        config = texts | {name: columns[name][n] for name in numbers}
        config |= {
            "activation": network.config()["activation"][0],
            "b_init": "uniform" if texts["w_init"] == "torch" else "zeros",
            "dataset": images,
            "dnn_architecture": "cnn",
            "epochs": int(columns["epochs"][n]),
            "epochs_between_checkpoints": int(columns["epochs"][n]),
            "num_layers": 3,
            "num_units": 16,
            "random_seed": seed,
        }
        record = {
            "": f"{images}/{run}/permanent_ckpt-{epoch}",
            "modeldir": f"{images}/{run}",
            "step": epoch,
            "test_accuracy": columns["score"][n],
            **{name: columns[name][n] for name in ("test_loss", "train_accuracy", "train_loss")},
            **{f"config.{name}": value for name, value in config.items()},
        }
        # A float32 has as many digits as it takes to read it back: 0.1, not 0.10000000149.
        records.append({k: str(v) if isinstance(v, np.floating) else v for k, v in record.items()})
    text = io.StringIO()
    # The published order is that of the alphabet; the first column, without a name, is the index.
    writer = csv.DictWriter(text, sorted(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    weights.flush()
    metrics = gzip.compress(text.getvalue().encode(), mtime=0)
    (folder / small_cnn_files.METRICS).write_bytes(metrics)
    lines, start = ["varname,start_idx,end_idx,size,shape"], 0
    for name, shape in small_cnn_files.SHAPES.items():
        size = int(np.prod(shape))
        lines.append(f'{name},{start},{start + size},{size},"{shape}"')
        start += size
    (folder / small_cnn_files.LAYOUT).write_text("\n".join(lines) + "\n")


def _wild_park(folder: pathlib.Path, columns: Columns, rows: dict[str, np.ndarray]) -> None:
    listed: dict[str, dict[str, list[Any]]] = {}
    for split, members in rows.items():
        listed[split] = {"path": [], "score": [], "step": []}
        for n in members:
            layers, weights = columns["layers"][n], columns["weights"][n]
            network = ParkNetwork(layers, weights, int(columns["num_classes"][n]))
            score, step = float(columns["score"][n]), int(columns["iteration"][n])
            run = f"{Cifar10WildPark.TOP}/run_{columns['run'][n]:05}"
            name = f"{run}/checkpoint_{step:06}/checkpoint.pt"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            state = state_dict.to_torch(network.arrays())
            file = torch_files.CnnFile(state, network.config(), score, step)
            torch_files.save_cnn(folder / name, file)
            for key, value in (("path", name), ("score", score), ("step", step)):
                listed[split][key].append(value)
    write_json(folder / Cifar10WildPark.SPLITS_FILE, listed)
