"""The mean prediction over seeds: scored as it is predicted, told wherever results are."""

import json

import numpy as np
import pytest
import small_run
from scipy.stats import kendalltau
from small_run import go_on, make_zoo

import probegen_jax
from probegen_jax import evaluate
from probegen_jax.errors import UserError
from probegen_jax.method.tasks import TASKS
from probegen_jax.report.write import write_report
from probegen_jax.runs import records
from probegen_jax.runs.experiment import load_run
from probegen_jax.runs.exported import export
from probegen_jax.zoo import own


def values():
    """A zoo of values of a scale of their own."""
    zoo, targets = make_zoo(), 5 + np.sin(np.arange(60))
    return own.from_arrays("mine", zoo.spec, zoo.weights, targets, task="regression")


@pytest.mark.slow  # two trainings
@pytest.mark.parametrize(
    "of",
    [
        pytest.param(make_zoo, id="classes"),
        pytest.param(values, id="values", marks=pytest.mark.slow),
    ],
)
def test_it_is_scored_as_it_is_predicted(of, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(small_run, "make_zoo", of)
    zoo, folder = of(), tmp_path / "run"
    predictor = go_on(folder, num_seeds=3, num_epochs=4)
    ensemble = predictor.result["ensemble"]
    for which in ("last", "best"):
        loaded = probegen_jax.load(folder, which=which, zoo=zoo)
        for split in ("val", "test"):
            rows = zoo.splits[split]
            predicted = loaded.predict_rows(zoo, rows).predicted
            if zoo.task == "classification":
                expected = np.mean(predicted == zoo.targets_N[rows])
            else:
                expected = kendalltau(predicted, zoo.targets_N[rows]).statistic
            assert ensemble[which][split] == pytest.approx(expected, abs=1e-6)
    figure = f"{ensemble['last']['test']:.4f}"
    assert f"and {figure} by their mean prediction" in capsys.readouterr().out
    assert evaluate.evaluate(folder, {}, zoo)
    told = capsys.readouterr().out
    assert f"mean prediction, last, test: {predictor.result['metric']} {figure}" in told
    export(load_run(folder, zoo=zoo), tmp_path / "model")
    assert f"| {figure} |" in (tmp_path / "model" / "README.md").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    go_on(folder, num_seeds=2, num_epochs=1)
    return folder


@pytest.mark.slow
def test_a_report_shows_it(run, tmp_path):
    page = write_report([load_run(run, zoo=make_zoo())], tmp_path / "page.html").read_text()
    assert "by the seeds' mean prediction" in page.replace("&#x27;", "'")
    assert "<td>mean prediction</td>" in page or ">mean prediction<" in page


@pytest.mark.slow
def test_a_changed_figure_is_found_and_results_of_before_have_none(run, tmp_path, capsys):
    path, text = run / "result.json", (run / "result.json").read_text()
    try:
        changed = json.loads(text)
        changed["ensemble"]["best"]["test"] = 2.0
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match="was changed after the training wrote it"):
            records.read_result(run)
        assert not evaluate.evaluate(run, {}, make_zoo())
        assert "mean prediction, best, test" in capsys.readouterr().out
        del changed["ensemble"], changed["digest"]
        path.write_text(json.dumps(records.sign(changed)))
        assert evaluate.evaluate(run, {}, make_zoo())
        assert "mean prediction" not in capsys.readouterr().out
    finally:
        path.write_text(text)


@pytest.mark.slow
def test_one_seed_is_none(tmp_path):
    assert "ensemble" not in go_on(tmp_path, num_epochs=1).result


def test_several_classes_are_more_likely_than_not():
    """By the mean of probabilities: of logits 4 and -3 it is 0.51, of 3 and -4 it is 0.49."""
    logits_SxNxO = np.float32([[[4.0, 3.0]], [[-3.0, -4.0]]])
    task = TASKS["multilabel"]
    found = task.ensemble(logits_SxNxO)
    np.testing.assert_allclose(found, [[0.0147, -0.0147]], atol=1e-4)
    assert task.beside["accuracy"](found, np.array([[1, 0]])) == 1.0
