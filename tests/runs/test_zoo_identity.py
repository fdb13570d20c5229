"""Which zoo a run is on: told by its facts, and by the name of the run folder."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import REPO

from probegen_jax import train as command
from probegen_jax.errors import UserError
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.train import train_zoo
from probegen_jax.zoo import own

SPEC = SirenSpec(hidden=(4, 4))


@functools.cache
def zoo():
    weights = jax.vmap(SPEC.init)(jax.random.split(jax.random.key(0), 40))
    targets = np.arange(40) % 2
    return own.from_arrays("mine", SPEC, weights, targets, task="classification")


def go_on(folder, epochs=1, **changes):
    """Trains on the zoo with a changed spec."""
    changed = dataclasses.replace(zoo(), spec=dataclasses.replace(SPEC, **changes))
    settings = {"num_epochs": epochs, "head_width": 4, "head_depth": 2, "report": False}
    return train_zoo(changed, num_probes=4, workdir=folder, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    go_on(folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("change", [{"w0": 31.0}, {"grid": "ij"}, {"output_shift": 0.0}])
def test_networks_that_compute_something_else_are_another_zoo(change, run):
    with pytest.raises(UserError, match=r"a run on another zoo: spec \(.* there, .* here\)"):
        go_on(run, **change)


def test_how_networks_run_makes_no_other_zoo(run, capsys):
    go_on(run, block_size=2, sine="exact")
    assert "is finished" in capsys.readouterr().out


def test_a_run_of_an_earlier_version_is_compared_by_what_it_has(run, capsys):
    facts = json.loads((run / "zoo.json").read_text())
    del facts["spec"]
    (run / "zoo.json").write_text(json.dumps(facts))
    go_on(run)
    assert "is finished" in capsys.readouterr().out
    facts["weights"] = "another"
    (run / "zoo.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"a run on another zoo: weights \(another there"):
        go_on(run)


@pytest.mark.parametrize(
    ("config", "flag", "name"),
    [
        ("mnist", None, "mnist-probegen-128"),
        ("mnist", "zoo_dir=zoos/A", "mnist-A-probegen-128"),
        ("cifar10_gs", "manual_dir=data/svhn/", "cifar10_gs-svhn-probegen-128"),
        ("own_inr", "networks_dir=mine", "own_inr-mine-probegen-128"),
        ("cifar10_gs", "download_url=http://x.org/a/svhn_cropped.tar.xz?dl=1",
         "cifar10_gs-svhn_cropped-probegen-128"),
        ("small_cnn_zoo", None, "cifar10_gs-probegen-128"),
        ("small_cnn_zoo", "zoo_dir=zoos/A", "cifar10_gs-A-probegen-128"),
    ],
)  # fmt: skip
def test_the_default_folder_is_called_after_the_zoo(config, flag, name, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "train", lambda config, workdir, **_: seen.append(workdir))
    flags = [f"--config.{flag}"] if flag else []
    command.main(["x", f"--config={REPO}/configs/{config}.py", *flags])
    assert seen == [f"runs/{name}"]
