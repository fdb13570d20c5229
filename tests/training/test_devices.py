"""The same training on 1, 2, 4 and 8 simulated devices; `on_devices.py` runs it."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import REPO

from probegen_jax.errors import UserError
from probegen_jax.training.checkpoints import Checkpoints
from probegen_jax.training.mesh import make_mesh, split_cpu

FOUR = "--xla_force_host_platform_device_count=4"
KINDS = ("inr", "mixed", "cnn")
# Sums over a batch are made in another order. Adam divides by the gradient's size, so that where a
# gradient is next to nothing, its rounding shows.
SAME_LOSS = {"rtol": 2e-6}
SAME_PARAMS = {"atol": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def runs(folder):
    command = [sys.executable, str(REPO / "tests" / "on_devices.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_that_of_one_device(runs, kind):
    alone, *others = runs[kind]
    assert alone["devices"] == 1
    assert len(others) == {"inr": 4, "mixed": 3, "cnn": 1}[kind]
    for other in others:
        assert other["places"] == alone["places"]
        np.testing.assert_allclose(other["losses"], alone["losses"], **SAME_LOSS)
        np.testing.assert_allclose(other["params"], alone["params"], **SAME_PARAMS)
        assert not np.allclose(alone["losses"], alone["losses"][0][0])  # it did train


def test_predictions_are_those_of_one_device(runs):
    alone, *others = runs["inr"]
    for other in others:
        np.testing.assert_allclose(other["outputs"], alone["outputs"], atol=1e-6)


def test_a_checkpoint_of_four_devices_is_read_on_one(runs, folder):
    checkpoints = Checkpoints(folder)
    found = checkpoints.arrays(1)["best_params"]
    checkpoints.close()
    params = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)])
    np.testing.assert_array_equal(params, np.float32(runs["inr"][-1]["params"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_adds_up_gradients_once_and_moves_nothing_else(runs, kind):
    for run in runs[kind]:
        assert run["exchanges"] == ({"all-reduce": 1} if run["devices"] > 1 else {})


@pytest.mark.parametrize("kind", KINDS)
def test_each_device_holds_its_own_networks_only(runs, kind):
    for run in runs[kind]:
        parts = run["devices"] // run["groups"]
        assert all(whole == parts * part for whole, part in run["lengths"])
    # Also of a mixed zoo's tables a device has just what its networks use.
    assert runs[kind][-1]["lengths"][0][1] < 0.6 * runs[kind][0]["lengths"][0][1]


def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_do():
    devices = jax.devices() * 4
    with pytest.raises(UserError, match=r"batch_size is 30, which 4 devices .*=28 or 32$"):
        make_mesh(30, devices=devices)
    with pytest.raises(UserError, match=r"batch_size is 3, .*=4$"):
        make_mesh(3, devices=devices)
    with pytest.raises(UserError, match=r"mesh.seeds is 3, .* divide the 4 devices"):
        make_mesh(32, 3, 3, devices=devices)
    with pytest.raises(UserError, match=r"mesh.seeds is 2, .* divide num_seeds, 3"):
        make_mesh(32, 3, 2, devices=devices)


@pytest.mark.parametrize(("wanted", "flags", "devices"), [(3, "", 3), (1, "", 1), (3, FOUR, 4)])
def test_a_cpu_counts_as_several_devices(wanted, flags, devices):
    code = (
        "import jax; from probegen_jax.training.mesh import split_cpu; "
        f"split_cpu({wanted}, 12); print(len(jax.devices())); split_cpu(2, 12)"
    )
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=REPO, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{devices}\n"), done.stderr


def test_a_negative_number_of_devices_is_told():
    with pytest.raises(UserError, match=r"mesh.cpu_devices is -1; give a number, or 0 for one"):
        split_cpu(-1, 12)
