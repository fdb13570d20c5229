"""The built-in CNN zoo: its splits, its cache, and the whole job on a tiny one."""

import json

import jax
import numpy as np
import pytest
from conftest import REPO

from probegen_jax import settings, train
from probegen_jax.factory.builtin import digits_cnn
from probegen_jax.factory.cnn import search_space
from probegen_jax.factory.cnn.planned import plan
from probegen_jax.factory.cnn.train_cnns import CnnFactory

SPACE = search_space.read("digits_cnn")
TINY = SPACE | {"networks_per_architecture": 2, "steps": (2, 12), "batch_size": 8}


def test_architectures_differ_and_follow_from_the_seed():
    def specs(seed):
        return [each.spec for each in plan(SPACE, 480, (8, 8, 1), 10, 1200, seed)]

    drawn = specs(0)
    assert len(drawn) == 480
    assert len(set(drawn)) == 60
    assert drawn == specs(0)
    assert drawn != specs(1)
    assert any(layer.residual >= 0 for spec in drawn for layer in spec.layers)
    used = {layer.activation for spec in drawn for layer in spec.layers}
    assert used == {"relu", "gelu", "tanh", "leaky_relu", "sigmoid"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def zoo(folder):
    return digits_cnn.load(folder, 10, TINY)


def test_no_architecture_is_in_two_splits(zoo):
    kinds = np.asarray(zoo.weights["programs"]["kind"])
    depths = np.asarray(zoo.weights["programs"]["depth"])
    seen = {
        name: {(int(depths[row]), kinds[row].tobytes()) for row in rows}
        for name, rows in zoo.splits.items()
    }
    assert sorted(np.concatenate(list(zoo.splits.values()))) == list(range(10))
    assert {name: len(rows) for name, rows in zoo.splits.items()} == {
        "train": 6,
        "val": 2,
        "test": 2,
    }
    assert sum(map(len, seen.values())) <= 5


def test_zoo_holds_every_network_and_answers_as_each_does(zoo):
    assert len(zoo) == 10
    assert zoo.task == "regression"
    assert zoo.targets_N.dtype == np.float32
    assert zoo.targets_N.min() >= 0
    assert zoo.targets_N.max() <= 1
    assert zoo.spec.probe_shape == (8, 8, 1)
    assert zoo.spec.response_dim == 10


def test_the_cache_is_used_and_the_space_is_part_of_its_key(zoo, folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(CnnFactory, "make", refuse)
        again = digits_cnn.load(folder, 10, TINY)
        with pytest.raises(AssertionError, match="trained again"):
            digits_cnn.load(folder, 10, TINY | {"batch_size": 9})
    np.testing.assert_array_equal(again.targets_N, zoo.targets_N)
    for a, b in zip(jax.tree.leaves(again.weights), jax.tree.leaves(zoo.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(list(folder.iterdir())) == 1


def test_a_corrupt_cache_is_built_again(zoo, folder):
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="is corrupt"):
        again = digits_cnn.load(folder, 10, TINY)
    np.testing.assert_array_equal(again.targets_N, zoo.targets_N)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["probegen", "vanilla", "dead_leaves", "images"])
def test_the_whole_job(method, folder, tmp_path, monkeypatch):
    load = digits_cnn.load
    monkeypatch.setattr(digits_cnn, "load", lambda data_dir: load(data_dir, 10, TINY))
    small = {"num_epochs": 2, "num_seeds": 2, "batch_size": 4, "eval_every": 2, "head_width": 8}
    values = settings.parse(
        [
            "train",
            f"--config={REPO}/configs/digits_cnn.py:{method},3",
            f"--config.data_dir={folder}",
            "--config.probe_images=digits",
            f"--config.report={method == 'probegen'}",
            *(f"--config.{key}={value}" for key, value in small.items()),
        ],
        "",
    )
    result = train.train(values.config, str(tmp_path / method))
    assert result == json.loads((tmp_path / method / "result.json").read_text())
    assert (result["dataset"], result["metric"]) == ("digits_cnn", "kendall_tau")
    assert (result["method"], result["num_probes"]) == (method, 3)
    assert all(-1 <= seed["last"]["test"] <= 1 for seed in result["seeds"])
    assert (tmp_path / method / "report.html").exists() == (method == "probegen")
