"""Builds that are killed at any moment, or find a full disk, and are gone on with."""

import os
import random
import shutil
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import REPO
from discs import write_images

from probegen_jax import build_zoo
from probegen_jax.zoo.prepared import built_zoos

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


def process(source, out, *flags):
    command = [sys.executable, "-m", "probegen_jax.build_zoo", "inr", f"--images={source}",
               f"--out={out}", "--steps=60", "--copies=2", *flags]  # fmt: skip
    return subprocess.Popen(command, cwd=REPO, stdout=-1, stderr=-1, text=True)


def files_of(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_bytes(tmp_path):
    """SIGKILL to a real process, started again until it is done."""
    source = write_images(tmp_path / "discs.npz", 1280)  # five parts with the copies
    whole = process(source, tmp_path / "whole")
    assert whole.communicate() and whole.returncode == 0
    out, kills = tmp_path / "killed", 0
    while True:
        running = process(source, out)
        there = len(list((out / "parts").glob("part-*")))
        deadline = time.monotonic() + 120
        while kills < 3 and running.poll() is None and time.monotonic() < deadline:
            if len(list((out / "parts").glob("part-*"))) > there:
                running.kill()
                break
            time.sleep(0.005)
        _, errors = running.communicate()
        if running.returncode == 0:
            break
        assert running.returncode == -9, errors
        kills += 1
    assert kills == 3
    assert files_of(out) == files_of(tmp_path / "whole")
    assert len(files_of(out)) == 9  # a plan, a lock, four infos, a file for each split


@pytest.mark.parametrize("limit", [100_000, 2_700_000])
def test_a_full_disk_is_told_and_the_build_goes_on(limit, tmp_path, capsys):
    # A limit on the size of a file stands in for a full disk: the first is less than a part, the
    # second less than the file of the training networks.
    source = write_images(tmp_path / "discs.npz", 100)
    code = """
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop()),) * 2)
        from probegen_jax import build_zoo, errors
        errors.run(build_zoo.main)
    """
    out, flags = tmp_path / "zoo", ["--steps=2", "--copies=8"]
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), "inr", f"--images={source}", f"--out={out}",
         *flags, str(limit)],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert "error: cannot write " in result.stderr and "(File too large)" in result.stderr
    assert "--out=DIR" in result.stderr and "Traceback" not in result.stderr
    parts = [path.name for path in (out / "parts").iterdir()]
    assert len(parts) == (0 if limit == 100_000 else 2)
    if parts:
        build_zoo.main(["x", "inr", f"--images={source}", f"--out={out}", *flags])
        assert "800 of 800 networks are there" in capsys.readouterr().out
        assert len(built_zoos.load(out, "inr")) == 800
