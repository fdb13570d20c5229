"""A small finished run with its zoo and its exported model, and ways to damage their files."""

import json
import pathlib
import random
import shutil

import jax
import numpy as np
from safetensors.numpy import save_file

from probegen_jax import settings, train
from probegen_jax.runs import exported
from probegen_jax.runs.experiment import load_run

KINDS = ("truncate", "flip", "binary", "deep", "value", "delete", "add")
_OTHER_VALUES = (
    *(None, True, 0, -1, 1.5, 2**40, 10**30, 1e300, float("nan"), float("inf"), "", "x", "\0"),
    *("\ud800", "../x", [], {}, [1], {"x": 1}, [[[]]], "y" * 5000),
)


def zoo(folder: pathlib.Path) -> pathlib.Path:
    """24 random SIRENs in files, and their targets."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), ["path,target"]
    for n in range(24):
        state = {}
        for layer, (inputs, outputs) in enumerate(((2, 8), (8, 8), (8, 1))):
            kernel = rng.standard_normal((outputs, inputs)) * (0.3 if layer < 2 else 1)
            state[f"seq.{layer}.weight"] = kernel.astype(np.float32)
            state[f"seq.{layer}.bias"] = np.zeros(outputs, np.float32)
        save_file(state, folder / f"{n}.safetensors")
        rows.append(f"{n}.safetensors,{n % 2}")
    (folder / "targets.csv").write_text("\n".join(rows) + "\n")
    return folder


def config(folder, networks=None, data=None, *more: str):
    """Settings of a short training on that zoo."""
    networks = networks or folder / "zoo"
    arguments = [
        *("--config=configs/own_inr.py:8", f"--config.networks_dir={networks}"),
        *(f"--config.targets_csv={networks}/targets.csv", "--config.hidden=(8, 8)"),
        *(f"--config.data_dir={data or folder / 'data'}", "--config.num_epochs=2"),
        *("--config.batch_size=8", "--config.head_width=8", "--config.report=False"),
        *("--config.num_seeds=2", "--config.eval_every=1", "--config.checkpoint_every=2"),
    ]
    return settings.parse(["train", *arguments, *more], "").config


def make(folder: pathlib.Path) -> pathlib.Path:
    """The run in `folder/run`, its zoo beside it, and the model in `folder/model`."""
    zoo(folder / "zoo")
    train.train(config(folder), folder / "run")
    exported.export(load_run(folder / "run"), folder / "model")
    return folder


def copy(made: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """A fresh copy of a folder."""
    shutil.rmtree(to, ignore_errors=True)
    return pathlib.Path(shutil.copytree(made, to))


def damage(path: pathlib.Path, kind: str, seed: int) -> None:
    """Changes a file, as the seed says."""
    rng, data = random.Random(seed), path.read_bytes()
    if kind == "truncate":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 8))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(changed))
    elif kind == "binary":
        path.write_bytes(rng.randbytes(rng.choice((1, 100, 5000))))
    elif kind == "deep":
        depth = rng.choice((70, 500, 100_000))
        path.write_text("[" * depth + "]" * depth)
    else:
        _damage_json(path, kind, rng)


def _damage_json(path: pathlib.Path, kind: str, rng: random.Random) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    at = rng.randrange(len(lines))
    content = json.loads(lines[at])
    places: list[tuple] = []

    def collect(value) -> None:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in list(pairs):
            places.append((value, key))
            if isinstance(inner, dict | list):
                collect(inner)

    collect(content)
    value, key = rng.choice(places)
    if kind == "add" and isinstance(value, dict):
        value["stray"] = rng.choice(_OTHER_VALUES)
    elif kind == "delete":
        del value[key]
    else:
        number = isinstance(value[key], int | float)
        near = value[key] * 1.01 + 0.01 if number else "x"
        value[key] = rng.choice((near, near, *_OTHER_VALUES))
    lines[at] = json.dumps(content)
    path.write_text("\n".join(lines) + "\n")


def leaves(tree):
    """The arrays of a tree."""
    return jax.tree.leaves(tree)
