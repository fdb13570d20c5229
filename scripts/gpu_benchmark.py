r"""Benchmarks on a GPU, the most telling first, from nothing but this repository.

    python scripts/gpu_benchmark.py --out=gpu --minutes=8     what can be done in that time
    python scripts/gpu_benchmark.py --out=gpu                 goes on, to the end: half an hour
    python scripts/gpu_benchmark.py --out=try --any_device --networks=400 --epochs=1 --probes=8 \
        --case=mnist_inr --rounds=1                           to see it run

  --out=DIR         all that is made and found; summary.json after every stage
  --minutes=N       stops by then, and what is done is kept; 0: no limit
  --networks=N      INRs to fit and to train on, six sevenths of them for training; 70,000
  --epochs=N        of the training; 30
  --probes=N, --rounds=N, --case=NAME       of the benchmarks; 128, 5 and all cases
  --any_device      also where there is no GPU

Stages: each case's training step, ours beside PyTorch's loop, torch.compile and torch.func.vmap
(benchmarks.quick); fitting INRs to images made here; training on them; benchmarks.run. The same
command goes on where it was: steps side by side, fitting part by part, training from its last
checkpoint. Compiled programs stay in the folder.

Needs jax for the GPU (pip install "jax[cuda12]") and, beside it, a PyTorch that sees the same GPU.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO)]

from absl import flags

from probegen_jax import command, errors
from probegen_jax.errors import UserError
from probegen_jax.files import read_json, write_json
from probegen_jax.runs import records
from probegen_jax.zoo.cache import write_arrays

_SIZE, _CLASSES = 28, 10


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("out", None, "folder", flag_values=values)
        flags.DEFINE_float("minutes", 0, "time", 0, flag_values=values)
        flags.DEFINE_integer("networks", 70_000, "INRs", 200, flag_values=values)
        flags.DEFINE_integer("epochs", 30, "epochs", 1, flag_values=values)
        flags.DEFINE_boolean("any_device", False, "GPU or not", flag_values=values)
        flags.DEFINE_integer("probes", 128, "probes", 1, flag_values=values)
        flags.DEFINE_integer("rounds", 5, "of the benchmarks", 1, flag_values=values)
        flags.DEFINE_string("case", "", "of the benchmarks; all if empty", flag_values=values)

    started = time.perf_counter()
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
    summary = out / "summary.json"
    found = read_json(summary) if summary.exists() else {"seconds": {}, "done": []}
    found |= {"device": device, "gpu": _gpu()}
    images, zoo, run = out / "images.npz", out / "zoo", out / "run"
    if not images.exists():
        write_arrays(images, make_images(options.networks))
    timing = [f"--probes={options.probes}", f"--rounds={options.rounds}"]
    timing += [f"--case={options.case}"] if options.case else []
    stages = {
        "steps": ("benchmarks.quick", f"--out={out / 'steps'}", *timing),
        "fitting": ("probegen_jax.build_zoo", "inr", f"--images={images}", f"--out={zoo}"),
        "training": (
            "probegen_jax.train",
            f"--config={REPO / 'configs' / 'mnist.py'}",
            f"--config.zoo_dir={zoo}",
            f"--config.num_epochs={options.epochs}",
            f"--workdir={run}",
        ),
        "benchmarks": ("benchmarks.run", f"--out={out / 'benchmarks'}", *timing),
    }
    for stage, arguments in stages.items():
        if stage in found["done"]:
            continue
        left = 60 * options.minutes - (time.perf_counter() - started) if options.minutes else None
        before = time.perf_counter()
        ended = (left is None or left > 0) and _python(out, left, *arguments)
        seconds = found["seconds"].get(stage, 0) + time.perf_counter() - before
        found["seconds"][stage] = seconds  # of all commands so far
        if ended:
            found["done"].append(stage)
            found |= _told(out, stage)
        write_json(summary, found)
        if not ended:
            print(f"out of time in stage {stage}; the same command goes on from here")
            break
    print(json.dumps(found, indent=2))


def _told(out: pathlib.Path, stage: str) -> dict[str, Any]:
    """What the summary repeats of a stage that has ended."""
    if stage == "steps":
        cases = read_json(out / "steps" / "results.json")["cases"]
        return {
            "steps": {
                name: {side: seconds["median"] for side, seconds in case["step"].items()}
                for name, case in cases.items()
            }
        }
    if stage == "training":
        result = records.read_result(out / "run")
        keys = ("mean", "seconds", "steps", "steps_per_second", "environment")
        return {"training": {key: result[key] for key in keys}}
    return {}


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


def _python(out: pathlib.Path, seconds: float | None, module: str, *arguments: str) -> bool:
    """Runs a module of this repository as a process of its own; ends with it if it fails.

    Returns:
      Whether it ended in time; else it was asked to stop.
    """
    compiled = {"JAX_COMPILATION_CACHE_DIR": "jax", "TORCHINDUCTOR_CACHE_DIR": "torch"}
    environment = {
        **{name: str(out / "compiled" / folder) for name, folder in compiled.items()},
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
    }
    # In a session of its own, so that its children, too, can be stopped and leave the GPU.
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env=environment, start_new_session=True
    )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # training saves its state first
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return False
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    if code:
        sys.exit(code)
    return True


def _gpu() -> str:
    """What the driver says of the GPU and itself; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    errors.run(main)
