"""Methods to compare ProbeGen with, as whole runs."""

import json

import numpy as np
import pytest
from small_run import go_on, make_zoo, stopped_at

import probegen_jax
from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.method.generators import coordinates
from probegen_jax.method.generators.registry import label
from probegen_jax.method.readouts import trees
from probegen_jax.report.write import missing
from probegen_jax.runs.experiment import load_run
from probegen_jax.runs.exported import export
from probegen_jax.runs.folder import differences


@pytest.mark.slow  # a training
def test_pixels_are_trained_on_and_predicted_for(tmp_path):
    """Every network answers once, at all pixels; what is asked for again goes on or is finished."""
    run = go_on(tmp_path / "run", method="pixels", pixels_size=2)
    assert (run.result["num_probes"], run.result["steps"]) == (4, 18)
    np.testing.assert_allclose(run.probes_SxP[0], [[-1, -1], [1, -1], [-1, 1], [1, 1]])
    zoo = make_zoo()
    again = probegen_jax.load(tmp_path / "run", zoo=zoo)
    assert again.evaluate(zoo) == [run.result["seeds"][0]["last"]["test"]]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_probes"] == 4


@pytest.mark.slow  # a training
def test_fixed_probes_that_have_changed_are_told(tmp_path, monkeypatch):
    """Networks answer them before the checkpoint is read: it must have been the same ones."""
    with stopped_at(8):
        go_on(tmp_path / "run", method="pixels", pixels_size=2)
    spread = coordinates.jnp.linspace
    with monkeypatch.context() as patch:
        patch.setattr(coordinates.jnp, "linspace", lambda a, b, n: spread(a, b / 2, n))
        with pytest.raises(UserError, match="have changed since this run began; put back those"):
            go_on(tmp_path / "run", method="pixels", pixels_size=2)
    assert go_on(tmp_path / "run", method="pixels", pixels_size=2).result["steps"] == 18


@pytest.mark.parametrize("key", ["pixels_size", "readout"])
def test_a_run_from_before_a_setting_has_its_default(key):
    ours = settings.defaults("mine").to_dict() | {"method": "pixels"}
    theirs = {name: value for name, value in ours.items() if name != key}
    assert differences(theirs, ours) == []
    assert len(differences(theirs, ours | {key: "other"})) == 1


def test_settings_of_other_methods_make_no_other_run():
    ours = settings.defaults("mine").to_dict() | {"method": "vanilla"}
    assert differences(ours, ours | {"pixels_size": 8, "latent_dim": 3}) == []
    assert len(differences(ours, ours | {"head_width": 8})) == 1


@pytest.mark.parametrize("key", ["probe_dropout", "probe_weight_decay"])
def test_probes_that_are_not_trained_have_no_dropout_and_no_decay(key, tmp_path):
    with pytest.raises(UserError, match=f"{key} is 0.5, but the probes of method 'uniform' are n"):
        go_on(tmp_path / "run", method="uniform", **{key: 0.5})


READING_WEIGHTS = {
    "flat": {"method": "flat"},
    # Labels are random: to learn them in 18 steps takes large ones.
    "mlp": {"method": "statnn", "statnn_head": "mlp", "learning_rate": 0.05},
    "trees": {"method": "statnn"},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "trees")) for name in READING_WEIGHTS],
)
def test_methods_that_read_weights_are_trained_as_others_are(name, tmp_path, monkeypatch):
    """The same files, figures and predictions; from the run, the export, and an earlier stop."""
    monkeypatch.setattr(trees, "ROUNDS", 5)
    changes = READING_WEIGHTS[name] | {"num_seeds": 2, "report": name == "trees"}
    zoo, at = make_zoo(), tmp_path / "run"
    if name == "flat":
        with stopped_at(8):
            go_on(at, **changes)
    run = go_on(at, **changes)
    result = run.result
    assert (result["num_probes"], result["steps"]) == (0, 1 if name == "trees" else 18)
    records = [json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["val_accuracy"] == [seed["last"]["val"] for seed in result["seeds"]]
    assert 0 < records[-1]["train_loss"][0] < records[0]["train_loss"][0] + (name == "trees")
    assert run.evaluate(zoo) == [seed["last"]["test"] for seed in result["seeds"]]
    export(load_run(at, zoo=zoo), tmp_path / "model")
    moved = probegen_jax.load(tmp_path / "model")
    np.testing.assert_array_equal(moved.predict(zoo).values, run.predict(zoo).values)
    state = {
        f"seq.{n}.{theirs}": np.asarray(layer[ours][0]).T
        for n, layer in enumerate(zoo.weights)
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
    }
    np.testing.assert_allclose(
        moved.predict([state]).values, run.predict(zoo).values[:1], atol=1e-6
    )
    if changes["report"]:
        page = (at / "report.html").read_text()
        assert (
            "This method reads weights, and has no probes." in page and "weight statistics" in page
        )
        assert not (at / "probes.png").exists() and (at / "curves.png").exists()
        assert missing(at) == []


def test_folders_of_runs_without_probes_have_no_number():
    assert label("flat", 0) == "flat" and label("probegen", 64) == "probegen-64"
