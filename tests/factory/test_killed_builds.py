"""Builds that are killed at any moment, by SIGKILL to real processes, and gone on with."""

import os
import random
import shutil
import subprocess
import sys
import time

import pytest
from conftest import REPO

KILLS = 15
FLAGS = {
    "inr": ["inr", "--steps=20", "--copies=2", "--hidden=8", "--export=torch"],
    "cnn": ["cnn", "--num=20", "--space=digits_cnn", "--export=torch"],
}
# Files whose coming is a moment to be killed at, besides any other moment.
MOMENTS = [None] * 4 + [
    ".plan.json.*", "parts/.*", "parts/part-*", "built_zoo/incomplete*", "built_zoo/1.0.0",
    "built_zoo/incomplete*/*array_record*", "built_zoo/incomplete*/metadata.json", ".parts",
    "built_zoo/incomplete*/SHA256SUMS", "torch", ".torch.*", "torch/*/*", "torch/targets.csv",
]  # fmt: skip


def start(family, out):
    command = [sys.executable, "-um", "probegen_jax.build_zoo", *FLAGS[family], "--images=digits"]
    with (out.parent / "said").open("w") as said:
        return subprocess.Popen([*command, f"--out={out}"], cwd=REPO, stdout=said, stderr=said)


def entries(out):
    """Content of every file, hidden ones too, and all folders."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes() if path.is_file() else None
        for path in out.rglob("*")
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", FLAGS)
def test_killed_at_any_moment_it_ends_with_the_same_folder(family, tmp_path, capsys):
    pytest.importorskip("torch")
    seed = int(os.environ.get("PROBEGEN_TESTS_SEED", "0"))
    rng, whole, out = random.Random(f"{family}{seed}"), tmp_path / "whole", tmp_path / "killed"
    begun = time.monotonic()
    assert start(family, whole).wait() == 0, (tmp_path / "said").read_text()
    lasts, kills, rounds, at = time.monotonic() - begun, 0, 0, []
    while kills < KILLS or out.exists():
        process, moment = start(family, out), rng.choice(MOMENTS)
        if kills >= KILLS:
            process.wait()
        elif moment is None:
            wait_until(process, lambda: False, rng.uniform(0, lasts))
        else:
            before = set(out.glob(moment))
            wait_until(process, lambda: set(out.glob(moment)) - before, 2 * lasts)  # noqa: B023
            time.sleep(rng.choice([0, 0, 0.01, 0.05]))
        process.kill()
        code = process.wait()
        assert code in (0, -9), (tmp_path / "said").read_text()
        if code:
            kills += 1
            at.append(moment or "any")
        else:
            rounds += 1
            assert entries(out) == entries(whole)
            shutil.rmtree(out)
    with capsys.disabled():
        print(f"\n{family}: {kills} kills in {rounds} builds, at {', '.join(sorted(at))}")


def wait_until(process: subprocess.Popen, happened, most: float) -> None:
    deadline = time.monotonic() + most
    while process.poll() is None and time.monotonic() < deadline and not happened():
        time.sleep(0.002)
