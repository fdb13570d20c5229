"""SIGKILL at any moment of a training's life; the same command goes on, and nothing differs.

  python tests/kills.py --out=/tmp/kills --kills=50 --seed=1

`--out` is a folder for the runs, made or empty. A life is a training of the built-in zoo from
nothing to its report. A kill comes at a moment drawn from the whole length of a life or, every
other time, when a file of a narrow window appears: half a checkpoint, the result, a picture, half a
file. Lives follow each other until there are enough kills; each must end as the one that was never
killed. Every third life fits the zoo itself, and every sixth compiles everything, at each start.

Compared are the names of all files, and all bytes but these: `seconds`, `steps_per_second` and the
digest in result.json, the two times in report.html, and `seconds` and the digest in checkpoints. Of
checkpoints arrays and facts are compared, since Orbax names files at random and notes the time.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

REPO = pathlib.Path(__file__).resolve().parent.parent
COMMAND = (
    *(sys.executable, "-m", "probegen_jax.train", f"--config={REPO}/configs/digits.py:16"),
    *("--workdir=run", "--config.data_dir=data", "--config.num_epochs=12", "--config.num_seeds=2"),
    *("--config.head_depth=2", "--config.head_width=32", "--config.eval_every=40"),
    "--config.checkpoint_every=60",
)
# What may differ; a digest is of all of the rest, times included.
TIMES = {"seconds", "steps_per_second", "digest"}
# What appears at the beginning of a window, and what is there when there will be no more of it.
WINDOWS = {
    "data/.*": "data/*.npz",
    "run/.lock": "run/report.html",
    "run/config.json": "run/config.json",
    "run/metrics.jsonl": "run/metrics.jsonl",
    "run/.*.*-*": "run/report.html",
    "run/checkpoints/*tmp*": "run/checkpoints/540",
    "run/checkpoints/*0": "run/checkpoints/540",
    "run/checkpoints/540": "run/checkpoints/540",
    "run/result.json": "run/result.json",
    "run/curves.png": "run/curves.png",
    "run/pictures/.*": "run/report.html",
    "run/pictures/wrong*": "run/pictures/wrong*",
    "run/.report.html*": "run/report.html",
    "run/report.html": "run/report.html",
}


def start(
    folder: pathlib.Path, cache: pathlib.Path, compiles: bool = False
) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": str(REPO),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "JAX_ENABLE_COMPILATION_CACHE": str(not compiles).lower(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(COMMAND, cwd=folder, env=environment, **pipes)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "Traceback" not in output and "warning" not in output.lower(), output
    return output


def wait(
    folder: pathlib.Path, process: subprocess.Popen[str], moments: random.Random, length: float
) -> str:
    """Waits for the moment of a kill, or for the end of the process; what the moment was."""
    open_ = [window for window, end in WINDOWS.items() if not any(folder.glob(end))]
    if moments.random() < 0.4 or not open_:
        deadline = time.monotonic() + moments.uniform(0, length)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return "any moment"
    window = moments.choice(open_)
    before = set(folder.glob(window))
    while process.poll() is None and not set(folder.glob(window)) - before:
        time.sleep(0.0005)
    time.sleep(moments.choice([0, 0, moments.uniform(0, 0.02)]))
    return window


def comparable(run: pathlib.Path) -> dict[str, object]:
    """Everything in a run's folder that must be the same."""
    from etils import epath
    from orbax import checkpoint as ocp

    found: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or name.startswith("checkpoints/"):
            continue
        found[name] = path.read_bytes()
    # Settings hold the whole path of `data_dir`, which is beside the run.
    found["config.json"] = (run / "config.json").read_text().replace(str(run.parent), "")
    result = json.loads((run / "result.json").read_text())
    found["result.json"] = {key: result[key] for key in result.keys() - TIMES}
    page = (run / "report.html").read_text()
    page, times = re.subn(r"<b>[\d,]+ s<", "<b> s<", page)
    page, speeds = re.subn(r"[\d,]+ per second", "per second", page)
    assert (times, speeds) == (1, 1)
    found["report.html"] = page
    found["checkpoints"] = sorted(path.name for path in (run / "checkpoints").iterdir())
    manager = ocp.CheckpointManager(epath.Path(run.resolve() / "checkpoints"))
    for step in manager.all_steps():
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(), facts=ocp.args.JsonRestore()
            ),
        )
        facts = restored["facts"]
        found[f"facts of {step}"] = {key: facts[key] for key in facts.keys() - TIMES}
        leaves = _leaves(restored["arrays"])
        found[f"arrays of {step}"] = [(x.shape, str(x.dtype), x.tobytes()) for x in leaves]
    manager.close()
    return found


def _leaves(tree: object) -> list[np.ndarray]:
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def differences(ours: dict[str, object], theirs: dict[str, object]) -> list[str]:
    return [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]


def check(out: pathlib.Path, kills: int, seed: int) -> str:
    """Kills so often, and compares; what was done, in words."""
    moments = random.Random(seed)
    cache = out / "compiled"
    finish(start(out / "warm", cache))  # what is compiled once is there for all
    started = time.monotonic()
    finish(start(out / "whole", cache))
    length = time.monotonic() - started
    whole = comparable(out / "whole" / "run")
    done: collections.Counter[str] = collections.Counter()
    lives = 0
    while sum(done.values()) < kills:
        lives += 1
        folder = out / f"life-{lives}"
        if lives % 3:  # else fitting is part of this life
            shutil.copytree(out / "whole" / "data", folder / "data")
        while True:
            process = start(folder, cache, compiles=lives % 6 == 3)
            when = None
            if sum(done.values()) < kills and moments.random() < 0.9:
                when = wait(folder, process, moments, length)
            if when is None or process.poll() is not None:
                finish(process)
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done[when] += 1
            print(f"life {lives}: {when}", flush=True)
        told = finish(start(folder, cache))
        assert "run is finished: test accuracy" in told, told
        differing = differences(whole, comparable(folder / "run"))
        assert not differing, f"seed {seed}, life {lives}: {', '.join(differing)}"
        strays = [path for path in folder.rglob(".*") if path.parent.name != "compiled"]
        assert not strays, f"seed {seed}, life {lives}: {strays}"
        print(f"life {lives} is whole after {sum(done.values())} kills", flush=True)
    where = ", ".join(f"{window} {count}" for window, count in sorted(done.items()))
    return f"seed {seed}: {sum(done.values())} kills in {lives} lives: {where}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(check(options.out.resolve(), options.kills, options.seed))
