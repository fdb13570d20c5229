"""The Python API on a zoo in memory, of a family of networks that only this file knows."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import stopped_at

import probegen_jax
from probegen_jax import evaluate
from probegen_jax.errors import UserError
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.report.write import write_report
from probegen_jax.runs.experiment import load_run
from probegen_jax.zoo.zoo import Stored, Zoo

SETTINGS = {
    "num_epochs": 8,
    "num_seeds": 2,
    "batch_size": 8,
    "head_width": 16,
    "head_depth": 2,
    "learning_rate": 3e-2,
    "eval_every": 10,
    "checkpoint_every": 15,
}


@dataclasses.dataclass(frozen=True)
class Line(NetworkSpec):
    """All that a family needs: an `apply` and two shapes."""

    probe_shape: tuple[int, ...] = (3,)
    response_dim: int = 1

    def apply(self, weights, probes):
        return jnp.tanh(probes @ weights["kernel"] + weights["bias"][None])


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    """Lines of which the first coefficient is positive or not."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.standard_normal((120, 3, 1)).astype(np.float32),
        "bias": random.standard_normal((120, 1)).astype(np.float32),
    }
    targets_N = (weights["kernel"][:, 0, 0] > 0).astype(np.int32)
    rows = random.permutation(120).astype(np.int32)
    splits = {"train": rows[:80], "val": rows[80:100], "test": rows[100:]}
    return Zoo("lines", Line(), weights, targets_N, splits, "classification", 2)


@pytest.mark.parametrize("mode", ["resident", pytest.param("stream", marks=pytest.mark.slow)])
def test_a_family_of_ten_lines_does_everything(mode, zoo, tmp_path, capsys):
    if mode == "stream":
        read = zoo.read
        zoo = dataclasses.replace(zoo, weights=Stored(read))
    settings = SETTINGS | {"data": {"mode": mode}}
    whole = probegen_jax.train(zoo, num_probes=4, workdir=tmp_path / "whole", **settings)
    result = whole.result
    assert result == json.loads((tmp_path / "whole" / "result.json").read_text())
    assert (result["dataset"], result["num_probes"], result["steps"]) == ("lines", 4, 80)
    assert result["mean"] > 0.85  # 0.5 by chance
    assert (tmp_path / "whole" / "report.html").stat().st_size > 10_000
    assert "warning" not in capsys.readouterr().err

    # Stopped in the middle, the same call goes on and ends with the same bits.
    with stopped_at(40):
        probegen_jax.train(zoo, num_probes=4, workdir=tmp_path / "parts", **settings)
    parts = probegen_jax.train(zoo, num_probes=4, workdir=tmp_path / "parts", **settings)
    assert "resuming" in capsys.readouterr().out
    assert parts.result["seeds"] == result["seeds"]
    jax.tree.map(np.testing.assert_array_equal, whole.head_params, parts.head_params)

    # A finished run gives the same back.
    again = probegen_jax.train(zoo, num_probes=4, workdir=tmp_path / "whole", **settings)
    loaded = probegen_jax.load(tmp_path / "whole", zoo=zoo)
    tests = [seed["last"]["test"] for seed in result["seeds"]]
    for predictor in (whole, again, loaded):
        assert predictor.result == result
        assert predictor.evaluate(zoo) == pytest.approx(tests)
    predictions = loaded.predict(zoo.read(zoo.splits["test"]))
    shares = np.mean(predictions.predicted == zoo.targets_N[zoo.splits["test"]])
    assert shares > 0.85
    assert evaluate.evaluate(tmp_path / "whole", {}, zoo)
    page = write_report([load_run(tmp_path / "whole", zoo=zoo)], tmp_path / "again.html")
    assert "lines" in page.read_text()


def test_without_its_zoo_a_run_says_what_to_do(zoo, tmp_path):
    settings = SETTINGS | {"num_epochs": 1, "report": False}
    probegen_jax.train(zoo, "vanilla", 2, tmp_path / "run", **settings)
    with pytest.raises(UserError, match=r"in memory; give it in Python, as in .*zoo=zoo"):
        probegen_jax.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_epoch": 3}, "unknown config key 'num_epoch', meaning 'num_epochs'?"),
        ({"num_epochs": "3"}, "num_epochs"),
        ({"method": "probgen"}, "choose from probegen, vanilla"),
        ({"data": {"mode": "fly"}}, "data.mode is 'fly'; choose from"),
    ],
)
def test_wrong_settings_are_named(changes, message, zoo, tmp_path):
    with pytest.raises(UserError) as told:
        probegen_jax.train(zoo, workdir=tmp_path / "run", **{"method": "probegen"} | changes)
    assert message in str(told.value)
    assert not (tmp_path / "run").exists()


def test_the_name_is_a_module_and_a_function():
    from probegen_jax import train

    assert train is probegen_jax.train
    assert callable(train) and callable(train.main)
