"""Trainings with settings of the optimiser: gone on with, scored, exported, refused."""

import jax
import numpy as np
import pytest
import small_run
from small_run import go_on, make_zoo, stopped_at

import probegen_jax
from probegen_jax import evaluate
from probegen_jax.errors import UserError
from probegen_jax.files import read_json, write_json
from probegen_jax.runs.experiment import load_run
from probegen_jax.runs.exported import export
from probegen_jax.zoo import own

ALL = {
    "probe_learning_rate": 1e-2,
    "learning_rate": 3e-3,
    "weight_decay": 0.1,
    "label_smoothing": 0.1,
    "dropout": 0.2,
    "ema": 0.8,
    "num_seeds": 2,
}
LATER = ("probe_learning_rate", "weight_decay", "label_smoothing", "dropout", "ema")


LATER += ("rank_loss", "schedule", "warmup_steps", "plateau_factor", "plateau_patience")
LATER += ("learning_rate_floor",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levers") / "run"
    return folder, go_on(folder, **ALL)


@pytest.mark.slow
def test_a_run_with_all_of_them_goes_on_bit_for_bit(trained, tmp_path):
    folder, whole = trained
    with stopped_at(7):
        go_on(tmp_path / "parts", **ALL)
    parts = go_on(tmp_path / "parts", **ALL)
    assert parts.result["seeds"] == whole.result["seeds"]
    runs = [load_run(each, zoo=make_zoo()) for each in (folder, tmp_path / "parts")]
    jax.tree.map(np.testing.assert_array_equal, runs[0].state, runs[1].state)
    jax.tree.map(np.testing.assert_array_equal, runs[0].best_params, runs[1].best_params)


def values():
    """A zoo of values."""
    zoo = make_zoo()
    targets = np.sin(np.arange(60))
    return own.from_arrays("mine", zoo.spec, zoo.weights, targets, task="regression")


@pytest.mark.slow
def test_a_run_on_a_plateau_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """It is stopped while it waits, too: what it has waited is in the checkpoint."""
    monkeypatch.setattr(small_run, "make_zoo", values)
    levers = {"schedule": "plateau", "plateau_patience": 1, "rank_loss": 0.5, "num_seeds": 2}
    levers |= {"learning_rate": 0.1, "num_epochs": 8, "warmup_steps": 3}
    go_on(tmp_path / "whole", **levers)
    for step in (7, 13):
        with stopped_at(step):
            go_on(tmp_path / "parts", **levers)
    go_on(tmp_path / "parts", **levers)
    runs = [load_run(tmp_path / name, zoo=values()) for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, runs[0].state, runs[1].state)
    assert runs[0].records == runs[1].records
    found = runs[0].state.opt_state[-1].reductions.tolist()
    for seed, reductions in enumerate(found):
        best, waited, expected = -1e9, 0, 0
        for record in runs[0].records:
            rate = 0.1 * 0.5**expected * min(1, record["step"] / 3)
            assert record["learning_rate"][seed] == pytest.approx(rate)
            if "val_kendall_tau" not in record:
                continue
            tau_S = record["val_kendall_tau"]
            waited = 0 if tau_S[seed] > best else waited + 1
            best = max(best, tau_S[seed])
            if waited > 1:
                waited, expected = 0, expected + 1
        assert reductions == expected
    assert sum(found) > 0


@pytest.mark.slow  # a training
def test_the_average_is_what_is_scored_loaded_and_exported(trained, tmp_path, capsys):
    folder, _ = trained
    run, zoo = load_run(folder, zoo=make_zoo()), make_zoo()
    last = run.state.params["head"]["layers"][0]["kernel"]
    average = run.params()["head"]["layers"][0]["kernel"]
    assert np.max(np.abs(last - average)) > 1e-4
    assert evaluate.evaluate(folder, {}, zoo)
    assert "the same figures as in" in capsys.readouterr().out
    loaded = probegen_jax.load(folder, zoo=zoo)
    np.testing.assert_array_equal(loaded.head_params["layers"][0]["kernel"], average)
    export(run, tmp_path / "model")
    exported = probegen_jax.load(tmp_path / "model")
    np.testing.assert_array_equal(exported.predict(zoo).values, loaded.predict(zoo).values)


@pytest.mark.slow
def test_a_run_of_before_is_one_without_them(tmp_path):
    finished = go_on(tmp_path, num_epochs=1)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {k: v for k, v in config.items() if k not in LATER})
    assert go_on(tmp_path, num_epochs=1).result == finished.result
    with pytest.raises(UserError, match=r"another config: ema \(0.0 there, 0.5 here\)"):
        go_on(tmp_path, num_epochs=1, ema=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1.0}, "dropout is 1.0; it must be below 1"),
        ({"ema": -0.1}, "ema is -0.1; it must be finite and not negative"),
        ({"weight_decay": float("inf")}, "weight_decay is inf; it must be finite and not negative"),
        ({"probe_learning_rate": 0.0}, "probe_learning_rate is 0.0; it must be above 0"),
        ({"schedule": "linear"}, "schedule is 'linear'; choose from cosine, plateau"),
        ({"plateau_factor": 1.5}, "plateau_factor is 1.5; it must be below 1"),
        ({"plateau_patience": -1}, "plateau_patience is -1; it must be finite and not negative"),
        ({"warmup_steps": 2**31}, "warmup_steps is 2147483648; give at most 2147483647"),
        ({"rank_loss": 0.5}, "rank_loss is 0.5, but mine is a zoo of classes, which have no order"),
        ({"head_depth": 1, "dropout": 0.5}, "with head_depth 1 has no layer for it"),
    ],
)
def test_mistakes_are_told(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        go_on(tmp_path, **changes)
    assert not (tmp_path / "config.json").exists()


def test_smoothing_is_for_classes(tmp_path):
    with pytest.raises(UserError, match=r"label_smoothing is 0.1, but mine is no zoo of networks"):
        probegen_jax.train(values(), num_probes=4, workdir=tmp_path, label_smoothing=0.1)
