"""Values of any scale are learnt alike, and told in their own unit wherever a user reads them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import stopped_at

import probegen_jax
from probegen_jax import evaluate, settings
from probegen_jax.compare import _export as export_for_torch
from probegen_jax.errors import UserError
from probegen_jax.files import read_json, write_json
from probegen_jax.method.readouts.hidden import Hidden
from probegen_jax.method.tasks import Scale
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.report import findings
from probegen_jax.runs import exported
from probegen_jax.runs.experiment import load_run
from probegen_jax.runs.folder import computed
from probegen_jax.zoo.files import torch_files
from probegen_jax.zoo.zoo import Zoo

SETTINGS = {
    "num_epochs": 12,
    "num_seeds": 2,
    "batch_size": 8,
    "head_width": 16,
    "head_depth": 2,
    "learning_rate": 1e-2,
    "eval_every": 10,
    "checkpoint_every": 50,
    "report": False,
}
SMALL = 2.0**-20  # a power of two: float32 values times it lose nothing


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    """SIRENs that differ in their last bias, which is to be predicted."""
    random, spec = np.random.default_rng(0), SirenSpec(hidden=(4,))
    weights = jax.tree.map(lambda leaf: np.zeros((120, *leaf.shape), np.float32), spec.abstract())
    values_N = random.uniform(-1, 1, 120).astype(np.float32)
    weights[-1]["bias"][:, 0] = values_N
    rows = random.permutation(120)
    splits = {"train": rows[:80], "val": rows[80:100], "test": rows[100:]}
    return Zoo("sirens", spec, weights, values_N, splits, "regression", 1)


def trained(zoo, workdir, **changes):
    return probegen_jax.train(zoo, num_probes=2, workdir=workdir, **SETTINGS | changes)


def scaled(zoo, factor, offset=0.0):
    targets_N = (zoo.targets_N.astype(np.float64) * factor + offset).astype(np.float32)
    return dataclasses.replace(zoo, targets_N=targets_N)


@pytest.fixture(scope="module")
def large(zoo, tmp_path_factory):
    """A run on values around 1,000, with its zoo."""
    zoo = scaled(zoo, 50, 1000)
    folder = tmp_path_factory.mktemp("runs") / "large"
    trained(zoo, folder)
    return load_run(folder, zoo=zoo), zoo


def test_a_scale_makes_no_difference(large, tmp_path):
    """A power of two changes no digit of a float32, so that all figures are the very same."""
    run, zoo = large
    small = trained(scaled(zoo, SMALL), tmp_path / "small")
    assert small.result["seeds"] == run.result["seeds"]
    assert min(seed["last"]["test"] for seed in small.result["seeds"]) > 0.9
    rows_N = zoo.splits["test"]
    predicted_N = small.predict_rows(zoo, rows_N).predicted / SMALL
    np.testing.assert_allclose(predicted_N, run.outputs(rows_N).mean(axis=0)[:, 0], rtol=1e-5)


def test_all_that_is_read_is_in_the_targets_unit(large, tmp_path, capsys):
    run, zoo = large
    rows_N = zoo.splits["test"]
    true_N = zoo.targets_N[rows_N]

    def close(values_N):
        assert np.abs(np.asarray(values_N) - true_N).mean() < 5  # of values from 950 to 1,050

    close(run.outputs(rows_N).mean(axis=0)[:, 0])
    predictions = probegen_jax.load(run.folder, zoo=zoo).predict(zoo.read(rows_N))
    close(predictions.predicted)
    lines = predictions.to_csv().splitlines()[1:]
    close([float(line.split(",")[1]) for line in lines])
    assert all(0 <= float(line.split(",")[2]) < 10 for line in lines)  # over seeds

    model = tmp_path / "model"
    exported.export(run, model)
    np.testing.assert_array_equal(
        exported.load(model).predict(zoo.read(rows_N)).values, predictions.values
    )
    shown = findings.find(run)
    close(shown.outputs_NxO[:, 0])
    assert {type(net.predicted) for net in shown.wrong} == {float}
    assert all(900 < net.predicted < 1100 for net in shown.wrong)
    assert shown.curves["loss"][0] == "training loss of standardized targets"
    assert shown.importance.loss < 0.2  # in units of their variance
    assert shown.importance.loss == pytest.approx(run.result and _val_loss(run), rel=1e-4)

    assert evaluate.evaluate(run.folder, {}, zoo)
    assert "the same figures as" in capsys.readouterr().out


def _val_loss(run):
    zoo = run.experiment.zoo
    rows_N = zoo.splits["val"]
    errors_N = run.outputs(rows_N)[0, :, 0] - zoo.targets_N[rows_N]
    return np.mean(np.square(errors_N / zoo.targets_N[zoo.splits["train"]].std()))


def test_the_official_code_would_predict_values_too(large, tmp_path):
    pytest.importorskip("torch")
    run, zoo = large
    written = export_for_torch(run, tmp_path / "ours.pth")
    predicted = []
    for path in written:
        state = torch_files.load_state_dict(tmp_path / path)
        made, weights = state["input"], zoo.read(zoo.splits["test"])
        for n in (0, 1):
            name = f"tokens_generator.{n}"
            made = made @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        x = np.asarray(zoo.spec.respond(weights, jnp.asarray(made)))[:, :, 0]
        x = np.maximum(x @ state["points_mixer.0.weight"].T + state["points_mixer.0.bias"], 0)
        x = x @ state["points_mixer.2.weight"].T + state["points_mixer.2.bias"]
        predicted.append(x[:, 0])
    assert np.abs(np.mean(predicted, axis=0) - zoo.targets_N[zoo.splits["test"]]).mean() < 5


def test_a_run_goes_on_bit_for_bit(large, tmp_path):
    run, zoo = large
    with stopped_at(70):
        trained(zoo, tmp_path / "parts")
    parts = trained(zoo, tmp_path / "parts")
    assert parts.result["seeds"] == run.result["seeds"]
    jax.tree.map(np.testing.assert_array_equal, parts.head_params, run.params()["head"])


def test_runs_of_before_learnt_values_as_they_are(zoo, tmp_path):
    """Their config lacks the setting; they load, predict and are not gone on with differently."""
    raw = trained(zoo, tmp_path / "raw", standardize=False)
    config = read_json(tmp_path / "raw" / "config.json")
    del config["standardize"]
    write_json(tmp_path / "raw" / "config.json", config)
    run = load_run(tmp_path / "raw", zoo=zoo)
    assert run.experiment.scale is None and run.experiment.learnt_zoo is run.experiment.zoo
    before = probegen_jax.load(tmp_path / "raw", zoo=zoo)
    jax.tree.map(np.testing.assert_array_equal, before.head_params, raw.head_params)
    assert trained(zoo, tmp_path / "raw", standardize=False).result == raw.result
    with pytest.raises(UserError, match=r"standardize \(False there, True here\)"):
        trained(zoo, tmp_path / "raw")


@pytest.mark.parametrize(
    ("config", "yes"),
    [
        ({"dataset": "cifar10_gs", "standardize": None}, False),
        ({"dataset": "cifar10_gs", "standardize": None, "zoo_dir": "zoos/mine"}, True),
        ({"dataset": "cifar10_wild_park", "standardize": None}, False),
        ({"dataset": "cifar10_wild_park", "standardize": True}, True),
        ({"dataset": "digits_cnn", "standardize": None}, True),
        ({"dataset": "own_inr", "standardize": None, "task": "regression"}, True),
        ({"dataset": "own_inr", "standardize": None, "task": "classification"}, False),
        ({"dataset": "own_inr", "standardize": False, "task": "regression"}, False),
        ({"dataset": "own_inr", "task": "regression"}, False),
    ],
)
def test_which_values_are_standardized(config, yes):
    assert settings.standardizes(config) is yes
    assert computed(config)["standardize"] is yes


def test_a_head_in_a_head_is_changed_in_its_last_layer():
    layer = {"kernel": np.ones((2, 3, 1), np.float32), "bias": np.zeros((2, 1), np.float32)}
    head = {"layers": {str(n): layer for n in range(11)}}
    changed = Hidden.predicting_values({"token": layer, "head": head}, Scale(5.0, 2.0))
    assert changed["token"] is layer
    last = changed["head"]["layers"].pop("10")
    assert np.all(last["kernel"] == 2) and np.all(last["bias"] == 5)
    assert all(each is layer for each in changed["head"]["layers"].values())
