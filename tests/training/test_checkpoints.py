import importlib.util
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import REPO

from probegen_jax.errors import UserError
from probegen_jax.method.learning import TrainState
from probegen_jax.training.checkpoints import Checkpoints
from probegen_jax.trees import named


def tree(scale):
    return {"layers": {0: jnp.arange(6.0).reshape(2, 3) * scale, 1: jnp.int32(scale)}}


def test_restores_bit_for_bit_and_keeps_the_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest_step() is None
    for step in (10, 20, 30):
        checkpoints.save(step, tree(step), {"seconds": step / 7})
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.latest_step() == 30
    arrays, facts = again.restore(30, tree(0))
    assert jax.tree.structure(arrays) == jax.tree.structure(tree(0))
    np.testing.assert_array_equal(arrays["layers"][0], tree(30)["layers"][0])
    assert facts == {"seconds": 30 / 7}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20", "30"]
    again.close()


def learnt(scale):
    """As trainings save it, with more layers than there are digits."""
    params = {"layers": {n: {"bias": jnp.full(3, scale + n)} for n in range(12)}}
    opt_state = optax.adam(0.1).init(params)
    state = TrainState(params, {"probes": jnp.ones((2, 2))}, opt_state, jnp.int32(scale))
    return {"state": state, "best_params": params}


@pytest.mark.parametrize("make", [tree, learnt])
def test_arrays_are_read_without_a_tree_like_them(tmp_path, make):
    """Whatever the order of their names; but not if they are those of another save."""
    checkpoints = Checkpoints(tmp_path)
    for step in (10, 20):
        checkpoints.save(step, make(step), {})
    checkpoints.close()
    again = Checkpoints(tmp_path)
    expected, found = named(make(20)), named(again.arrays(20))
    for name in expected.keys() & found.keys():
        np.testing.assert_array_equal(found[name], expected[name])
    assert len(found) == len(expected)
    shutil.rmtree(tmp_path / "20" / "arrays")
    shutil.copytree(tmp_path / "10" / "arrays", tmp_path / "20" / "arrays")
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*20 \(it holds other values"):
        again.arrays(20)
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*20 \(it holds other values"):
        again.restore(20, make(0))
    again.close()


def test_a_damaged_checkpoint_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, tree(1), {})
    checkpoints.close()
    for path in (tmp_path / "10").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = Checkpoints(tmp_path)
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*10 .*delete that folder"):
        again.restore(10, tree(0))
    again.close()


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    message = r"cannot write a checkpoint to .*checkpoints \(.*--workdir"
    with pytest.raises(UserError, match=message):
        Checkpoints(tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints").read_text() == "a file"


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_bucket_without_its_library_is_told_in_one_line():
    with pytest.raises(UserError, match=r"cannot reach gs://bucket/run: .*gcsfs"):
        Checkpoints("gs://bucket/run")


FULL = """
import pathlib, resource, sys
import jax.numpy as jnp
from probegen_jax import errors
from probegen_jax.training.checkpoints import Checkpoints

def main(argv):
    checkpoints = Checkpoints(pathlib.Path(argv[1]))
    checkpoints.save(1, {"a": jnp.arange(10)}, {})
    checkpoints.close()
    checkpoints = Checkpoints(pathlib.Path(argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    checkpoints.save(2, {"a": jnp.sin(jnp.arange(100_000.0))}, {})
    checkpoints.close()

errors.run(main)
"""


def test_a_full_disk_is_told_in_one_line_and_the_last_checkpoint_stays(tmp_path):
    """A limit on the size of files stands in for the disk: it fails in the same way."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run")],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: cannot write a checkpoint to")
    assert "(File too large)" in last and "choose another folder with --workdir" in last
    again = Checkpoints(tmp_path / "run")
    assert again.latest_step() == 1
    again.close()
