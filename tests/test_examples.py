"""The example in one file: it is short, it learns, and it is as good as the package."""

import json
import math
import re
import statistics
import subprocess
import sys

import pytest
from conftest import REPO

pytestmark = pytest.mark.optimized

ONE_FILE = REPO / "examples" / "probegen_one_file.py"


def accuracy(seed: int, epochs: int) -> float:
    """What the example prints at its end, run by itself as a reader would."""
    command = [sys.executable, ONE_FILE, str(seed), str(epochs)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(re.search(r"^test accuracy (\d\.\d+)$", printed, re.MULTILINE)[1])


def test_it_is_one_short_file_of_its_own():
    source = ONE_FILE.read_text()
    assert len(source.splitlines()) <= 150
    assert not re.search(r"^\s*(from|import) (probegen_jax|configs)", source, re.MULTILINE)


def test_what_to_read_after_it_is_there():
    section = (REPO / "README.md").read_text().split("## Reading the code")[1].split("\n## ")[0]
    files = re.findall(r"^\| `(\S+\.py)` \|", section, re.MULTILINE)
    assert len(files) >= 9
    assert [name for name in files if not (REPO / "probegen_jax" / name).is_file()] == []


@pytest.mark.slow
def test_it_learns():
    # Guessing one of ten digits gets 0.1, with a standard error of 0.02 on 240 networks.
    assert accuracy(seed=0, epochs=20) > 0.8


@pytest.mark.slow
def test_it_is_as_good_as_the_package(digits_dir, tmp_path):
    command = [sys.executable, "-m", "probegen_jax.train", "--config=configs/digits.py"]
    command += [f"--workdir={tmp_path}", f"--config.data_dir={digits_dir}", "--config.report=False"]
    subprocess.run(command, check=True, cwd=REPO)
    seeds = json.loads((tmp_path / "result.json").read_text())["seeds"]
    package = [seed["last"]["test"] for seed in seeds]
    example = [accuracy(seed["seed"], epochs=100) for seed in seeds]

    # The larger spread of the two, and the standard error of the difference. That is 2.2 times the
    # standard error where both spread alike.
    spreads = [statistics.stdev(package), statistics.stdev(example)]
    bound = max(spreads) + math.hypot(*spreads) / math.sqrt(len(seeds))
    difference = statistics.mean(example) - statistics.mean(package)
    print(f"package {package}, example {example}, difference {difference:.4f}, bound {bound:.4f}")
    assert abs(difference) <= bound
