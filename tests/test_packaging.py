"""What the README and the requirements files promise about installing."""

import re
import tomllib

import pytest
from conftest import REPO
from ml_collections import ConfigDict


def requirements(name):
    lines = (REPO / name).read_text().splitlines()
    return sorted(line for line in lines if line and line[0] not in "#-")


@pytest.mark.parametrize("extra", ["torch", "dev", "tensorboard", "docs"])
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
