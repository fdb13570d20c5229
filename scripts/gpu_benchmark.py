"""All benchmarks on a GPU, from nothing but this repository: images are made, zoos are built.

    python scripts/gpu_benchmark.py --out=gpu                 about half an hour, most of it fitting
    python scripts/gpu_benchmark.py --out=try --networks=400 --any_device      to see it run

  --out=DIR         benchmarks/ with table and plot, the zoo, the run, and summary.json
  --networks=N      INRs to fit and to train on, six sevenths of them for training; 70,000
  --any_device      also where there is no GPU

Needs jax for the GPU (pip install "jax[cuda12]") and, beside it, a PyTorch that sees the same GPU.
What is done already is not done again.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO)]

from absl import flags

from probegen_jax import command, errors
from probegen_jax.errors import UserError
from probegen_jax.files import read_json, write_json
from probegen_jax.zoo.cache import write_arrays

_SIZE, _CLASSES = 28, 10


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("out", None, "folder", flag_values=values)
        flags.DEFINE_integer("networks", 70_000, "INRs", 200, flag_values=values)
        flags.DEFINE_boolean("any_device", False, "GPU or not", flag_values=values)
        flags.DEFINE_integer("rounds", 7, "of the benchmarks", 1, flag_values=values)
        flags.DEFINE_string("case", "", "of the benchmarks; all if empty", flag_values=values)

    options, names = command.parse(argv, __doc__, define)
    if names or options.out is None:
        raise UserError("say where results go, and nothing else: --out=DIR; --help shows the usage")
    backend, device = _device()
    if backend != "gpu" and not options.any_device:
        raise UserError(
            f"jax sees no GPU, only {device}; install jax[cuda12], or try this out with "
            "--any_device"
        )
    out = pathlib.Path(options.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    summary = {"device": device, "gpu": _gpu()}
    images = out / "images.npz"
    if not images.exists():
        write_arrays(images, make_images(options.networks))
    zoo, run = out / "zoo", out / "run"
    started = time.perf_counter()
    _python("probegen_jax.build_zoo", "inr", f"--images={images}", f"--out={zoo}")
    summary["build_seconds"] = time.perf_counter() - started
    _python(
        "probegen_jax.train",
        f"--config={REPO / 'configs' / 'mnist.py'}",
        f"--config.zoo_dir={zoo}",
        f"--workdir={run}",
    )
    result = read_json(run / "result.json")
    summary |= {
        key: result[key] for key in ("mean", "seconds", "steps", "steps_per_second", "environment")
    }
    if not (out / "benchmarks" / "results.json").exists():
        more = [f"--case={options.case}"] if options.case else []
        _python(
            "benchmarks.run", f"--out={out / 'benchmarks'}", f"--rounds={options.rounds}", *more
        )
    write_json(out / "summary.json", summary)
    print(json.dumps(summary, indent=2))
    print(f"tables: {out / 'benchmarks' / 'results.md'}")


def make_images(number: int) -> dict[str, np.ndarray]:
    """Grayscale images of ten classes: a smooth pattern each, moved, scaled and with noise.

    Args:
      number: of images; a seventh of them for tests.

    Returns:
      What `build_zoo` reads from an .npz.
    """
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(_CLASSES, 4, 4, 2))
    labels = rng.integers(_CLASSES, size=number)
    grid = np.linspace(0, 1, _SIZE)
    images = np.empty((number, _SIZE, _SIZE), np.uint8)
    for start in range(0, number, 4096):
        block = labels[start : start + 4096]
        scale = rng.uniform(0.8, 1.2, len(block))
        y, x = (
            (grid[None] - 0.5) * scale[:, None] + 0.5 + rng.normal(0, 0.03, (len(block), 1))
            for _ in range(2)
        )
        total = np.zeros((len(block), _SIZE, _SIZE))
        for i in range(4):
            for j in range(4):
                phase = 2 * np.pi * (i * y[:, :, None] + j * x[:, None, :]) / 2
                amplitude = waves[block, i, j]
                total += amplitude[:, 0, None, None] * np.cos(phase)
                total += amplitude[:, 1, None, None] * np.sin(phase)
        total += rng.normal(0, 0.2, total.shape)
        total /= 1e-6 + np.abs(total).max(axis=(1, 2), keepdims=True)
        images[start : start + 4096] = np.clip(127.5 * (total + 1), 0, 255)
    test = number // 7
    return {
        "x_train": images[test:],
        "y_train": labels[test:],
        "x_test": images[:test],
        "y_test": labels[:test],
    }


def _device() -> tuple[str, str]:
    """Backend and devices, asked in another process: this one must not hold a GPU's memory."""
    ask = "import jax; d = jax.devices(); print(d[0].platform, len(d), '×', d[0].device_kind)"
    found = subprocess.run(
        [sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    backend, device = found.strip().split(" ", 1)
    return backend, device


def _python(module: str, *arguments: str) -> None:
    """Runs a module of this repository as a process of its own; ends with it if it fails."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    }
    done = subprocess.run([sys.executable, "-m", module, *arguments], env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _gpu() -> str:
    """What the driver says of the GPU and itself; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    errors.run(main)
