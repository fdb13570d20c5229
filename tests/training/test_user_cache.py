"""Compiled programs are kept for the next run, which computes the same bits with them."""

import json
import os
import platform
import subprocess
import sys

import pytest
from conftest import REPO

from probegen_jax import user_cache

pytestmark = pytest.mark.optimized


@pytest.fixture
def without_settings(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    # As `keep_compiled` sets it, it must be unset when the test ends.
    yield monkeypatch
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)


@pytest.mark.slow
def test_a_second_run_finds_programs_and_computes_the_same_bits(
    tmp_path, digits_dir, without_settings
):
    without_settings.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = []
    for folder in ("first", "second"):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "probegen_jax.train",
                f"--config={REPO}/configs/digits.py:16",
                f"--config.data_dir={digits_dir}",
                "--config.num_epochs=1",
                "--config.report=False",
                f"--workdir={tmp_path / folder}",
            ],
            check=True,
            cwd=REPO,
        )
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        result = json.loads((tmp_path / folder / "result.json").read_text())
        results.append(([json.loads(line) for line in lines], result["seeds"]))
        (kept,) = (tmp_path / "cache/probegen_jax").glob("compiled-*")
        programs = {path.name: path.stat().st_mtime_ns for path in kept.glob("*-cache")}
        if folder == "first":
            before = programs
    assert programs == before and any("run_steps" in name for name in programs)
    assert results[0] == results[1]


FAULTS = """
import resource, sys
import numpy as np
from probegen_jax.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    np.ones(8_000_000).sum()  # 64 MB
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc")
def test_freed_memory_stays_with_the_process():
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, how], cwd=REPO, check=True, stdout=subprocess.PIPE
            ).stdout
        )
        for how in ("keep", "plain")
    }
    assert faults["keep"] < 100 < faults["plain"]


def test_what_the_user_says_of_the_cache_holds(without_settings, tmp_path):
    without_settings.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    without_settings.setenv("XDG_CACHE_HOME", str(tmp_path))
    user_cache.keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine" and not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_told_and_left(without_settings, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    without_settings.setenv("XDG_CACHE_HOME", str(blocked))
    user_cache.keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert "compiled programs are not kept" in capsys.readouterr().err
