"""What the README and the requirements files promise about installing."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from conftest import REPO
from ml_collections import ConfigDict


def requirements(name):
    lines = (REPO / name).read_text().splitlines()
    return sorted(line for line in lines if line and line[0] not in "#-")


@pytest.mark.parametrize("extra", ["torch", "dev", "oracles", "tensorboard", "docs"])
def test_extras_are_the_requirements_files(extra):
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert sorted(project["optional-dependencies"][extra]) == requirements(
        f"requirements-{extra}.txt"
    )


def test_every_requirement_has_both_bounds():
    for path in REPO.glob("requirements*.txt"):
        for requirement in requirements(path.name):
            assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+,<[\d.]+", requirement), requirement


def test_every_config_key_of_the_readme_exists():
    from probegen_jax import settings

    config = settings.parse(["train", f"--config={REPO}/configs/digits.py"], "").config
    table = re.search(r"\| key \| meaning \|\n(.*?)\n\n", (REPO / "README.md").read_text(), re.S)
    keys = {
        key
        for row in table[1].splitlines()[1:]
        for key in re.findall(r"`([\w.]+)`", row.split("|")[1])
    }
    flat = {
        f"{key}.{inner}" if inner else key
        for key, value in config.items()
        for inner in (value if isinstance(value, ConfigDict) else ("",))
    }
    assert keys == flat - {"dataset"}


def command(*arguments, cwd):
    """Runs it as if nobody had told Python where this checkout is; returns what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Built from a copy, so that nothing is left beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for path in REPO.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    for folder in ("probegen_jax", "configs", "tests"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / folder, source / folder, ignore=ignore)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    command(sys.executable, "-c", build, cwd=source)
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    build = ("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", out)
    command(sys.executable, "-m", "pip", *build, sdist, cwd=out)
    (built,) = out.iterdir()
    return built


DATA = {"probegen_jax/report/style.css", "probegen_jax/runs/model_card.md"}  # not Python


def files(folder, pattern="*.py"):
    return {path.relative_to(REPO).as_posix() for path in (REPO / folder).rglob(pattern)}


def test_the_sdist_holds_the_package_and_what_builds_it(sdist):
    with tarfile.open(sdist) as archive:
        names = {item.name.split("/", 1)[1] for item in archive if item.isfile()}
    package = files("probegen_jax") | files("configs") | DATA
    assert {name for name in names if "/" in name and ".egg-info/" not in name} == package
    top = {path.name for path in REPO.glob("requirements*.txt")}
    top |= {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "setup.py"}
    made = {"PKG-INFO", "setup.cfg", "MANIFEST.in"}
    assert {name for name in names if "/" not in name} == top | made


def test_the_wheel_holds_the_package_with_its_configs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    configs = {f"probegen_jax/{name}" for name in files("configs")}
    assert names == files("probegen_jax") | configs | DATA


def test_installed_it_trains_from_an_empty_folder(wheel, digits_dir, tmp_path):
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    command(sys.executable, "-m", "venv", "--without-pip", environment, cwd=empty)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    command(*pip, "install", "--no-deps", "--no-index", wheel, cwd=empty)
    # What the package needs is that of the environment of these tests.
    (site_packages,) = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages / "others.pth").write_text("\n".join(others))
    found = command(python, "-c", "import probegen_jax as p; print(p.__file__)", cwd=empty)
    assert site_packages.samefile(os.path.dirname(os.path.dirname(found)))
    small = ("num_epochs=1", "num_probes=4", "num_seeds=1", "head_width=8", "report=False")
    options = [f"--config.{option}" for option in (*small, f"data_dir={digits_dir}")]
    train = ("-m", "probegen_jax.train", "--config=configs/digits.py", *options)
    command(python, *train, cwd=empty)
    run = empty / "runs" / "digits-probegen-4"
    result = json.loads((run / "result.json").read_text())
    assert (result["train_networks"], result["steps"]) == (1437, 45)
