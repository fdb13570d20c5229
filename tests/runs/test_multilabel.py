"""Networks that have several classes or none: from the CSV to metrics, predictions and reports."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import REPO
from sklearn.metrics import average_precision_score
from small_run import stopped_at

import probegen_jax
from probegen_jax import describe_zoo, evaluate, predict, settings, train
from probegen_jax.compare import compare
from probegen_jax.errors import UserError
from probegen_jax.method.tasks import (
    TASKS,
    average_precisions,
    binary_cross_entropy,
    label_accuracy,
    mean_average_precision,
)
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.report import findings, sections
from probegen_jax.runs import checks, exported
from probegen_jax.runs.experiment import load_run
from probegen_jax.training.mesh import make_mesh
from probegen_jax.zoo import own
from probegen_jax.zoo.own import targets

SPEC = SirenSpec(hidden=(4,))
NAMES = ("=left", "right", "up|down")


# Loss and metrics.


def test_the_loss_is_optaxs():
    outputs = 20 * jax.random.normal(jax.random.key(0), (16, 5))
    has = jax.random.bernoulli(jax.random.key(1), 0.4, (16, 5)).astype(jnp.int8)
    expected = optax.sigmoid_binary_cross_entropy(outputs, has.astype(jnp.float32)).mean(axis=1)
    np.testing.assert_allclose(binary_cross_entropy(outputs, has), expected, rtol=1e-6)


@pytest.mark.parametrize("values", [2, 5, 10_000])  # few values: many networks are equal
def test_average_precision_is_scikit_learns(values):
    random = np.random.default_rng(values)
    outputs = random.integers(0, values, (300, 7)).astype(np.float32) - values / 2
    has = (random.random((300, 7)) < np.linspace(0.01, 0.9, 7)).astype(np.int8)
    has[:, 3] = 1
    expected = [average_precision_score(has[:, n], outputs[:, n]) for n in range(7)]
    np.testing.assert_allclose(average_precisions(outputs, has), expected, rtol=1e-12)
    macro = average_precision_score(has, outputs, average="macro")
    assert mean_average_precision(outputs, has) == pytest.approx(macro)


def test_a_class_that_no_network_has_is_left_out():
    has = np.array([[1, 0], [0, 0], [1, 0]], np.int8)
    outputs = np.array([[2, 9], [3, 9], [1, 9]], np.float32)
    assert np.isnan(average_precisions(outputs, has)[1])
    assert mean_average_precision(outputs, has) == pytest.approx((1 / 2 + 2 / 3) / 2)
    with pytest.raises(UserError, match="needs networks with classes, but all 3 have none"):
        mean_average_precision(outputs, 0 * has)
    outputs[0, 0] = np.nan
    assert np.isnan(mean_average_precision(outputs, has))


def test_accuracy_counts_every_class_of_every_network():
    has = np.array([[1, 0, 1], [0, 0, 0]], np.int8)
    outputs = np.array([[3, -2, -1], [-1, 4, -9]], np.float32)
    assert label_accuracy(outputs, has) == pytest.approx(4 / 6)
    shares = TASKS["multilabel"].predictions(outputs)
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-outputs)), rtol=1e-6)


# The CSV.


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ["path,target", "a,cat|dog", "b,", "c, dog ; Emu ", "d,dog|dog"],
        ["path;target", 'a;"cat;dog"', "b;", "c;dog|Emu", "d;dog"],
        ["path,cat,dog,Emu", "a,1,1,0", "b,0,0.0,0", "c,0,1,1", "d,0,1,0"],
        ["Path,cat,dog,Emu", "a,True,True,False", "b,false,False,0", "c,0,1,1.0", "d,0,1,0"],
    ],
)
def test_classes_in_one_column_or_in_one_each(lines, tmp_path):
    found = targets.read_csv(write(tmp_path / "t.csv", lines), "multilabel")
    columns = [found.class_names.index(name) for name in ("cat", "dog", "Emu")]
    assert found.paths == ["a", "b", "c", "d"]
    assert found.targets.dtype == np.int8
    wanted = [[1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0]]
    assert found.targets[:, columns].tolist() == wanted


def test_classes_that_are_numbers_are_in_their_order_or_counted(tmp_path):
    lines = ["path,split,target", "a,train,10|9", "b,val,2", "c,test,"]
    path = write(tmp_path / "t.csv", lines)
    found = targets.read_csv(path, "multilabel")
    assert (found.class_names, found.splits) == (("2", "9", "10"), ["train", "val", "test"])
    found = targets.read_csv(path, "multilabel", 12)
    assert found.class_names is None and found.targets.shape == (3, 12)
    assert np.flatnonzero(found.targets[0]).tolist() == [9, 10]
    with pytest.raises(UserError, match=r"line 2: '10' is not a class number from 0 to 9"):
        targets.read_csv(path, "multilabel", 10)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["path,target", "a,cat||dog"], r"line 2: target 'cat\|\|dog' is not names of classes"),
        (["path,split,target", "a,train"], "line 2: has no target"),
        (["path,target", "a,", "b,"], "no network has any class"),
        (["path,cat,dog", "a,1,0", "b,2,0"], "line 3: '2' in the column 'cat' is neither 0 nor 1"),
        (["path,cat,dog", "a,1"], "line 2: None in the column 'dog' is neither 0 nor 1"),
        (["path,split", "a,train"], "has no column 'target', and none for a class"),
        (["path,cat,cat", "a,1,1"], "has two columns 'cat'"),
        ([",path,cat", "0,a,1"], "column 1 has no name that a class can have"),
    ],
)
def test_mistakes_in_the_csv(lines, told, tmp_path):
    with pytest.raises(UserError, match=told):
        targets.read_csv(write(tmp_path / "t.csv", lines), "multilabel")


def test_columns_of_classes_are_counted(tmp_path):
    path = write(tmp_path / "t.csv", ["path,cat,dog", "a,1,0"])
    with pytest.raises(UserError, match="columns for 2 classes, but num_classes is 3"):
        targets.read_csv(path, "multilabel", 3)


# A run.


def make_zoo(number=90):
    """SIRENs that differ in their last biases: a class each for what is above 0."""
    spec = SirenSpec(hidden=(4,), out_dim=3)
    random = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda leaf: np.zeros((number, *leaf.shape), np.float32), spec.abstract()
    )
    values_Nx3 = random.uniform(-1, 1, (number, 3)).astype(np.float32)
    weights[-1]["bias"][:] = values_Nx3
    has = (values_Nx3 > 0).astype(np.int64)
    return own.from_arrays("mine", spec, weights, has, task="multilabel", class_names=NAMES)


SMALL = {"num_epochs": 40, "num_seeds": 2, "batch_size": 9, "head_width": 16, "head_depth": 2}
SMALL |= {"learning_rate": 1e-2, "eval_every": 100, "checkpoint_every": 100, "report": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run, and its zoo."""
    folder, zoo = tmp_path_factory.mktemp("runs") / "run", make_zoo()
    probegen_jax.train(zoo, num_probes=2, workdir=folder, **SMALL)
    return load_run(folder, zoo=zoo), zoo


def test_a_run_learns_and_tells_both_metrics(run, capsys):
    run, zoo = run
    result = run.result
    assert result["metric"] == "mean_average_precision" and result["mean"] > 0.9
    for seed, outputs_NxO in zip(result["seeds"], run.outputs(zoo.splits["test"]), strict=True):
        has = zoo.targets_N[zoo.splits["test"]]
        expected = average_precision_score(has, outputs_NxO, average="macro")
        assert seed["last"]["test"] == pytest.approx(expected)
        assert seed["last"]["test_accuracy"] == pytest.approx(((outputs_NxO > 0) == has).mean())
    assert evaluate.evaluate(run.folder, {}, zoo)
    told = capsys.readouterr().out
    assert "last step, test (18 networks): mean_average_precision" in told
    assert "accuracy" in told and "the same figures as" in told


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit(run, tmp_path):
    run, zoo = run
    with stopped_at(200):
        probegen_jax.train(zoo, num_probes=2, workdir=tmp_path / "parts", **SMALL)
    parts = probegen_jax.train(zoo, num_probes=2, workdir=tmp_path / "parts", **SMALL)
    assert parts.result["seeds"] == run.result["seeds"]


def test_predictions_are_a_probability_a_class(run, tmp_path):
    run, zoo = run
    predictor = probegen_jax.load(run.folder, zoo=zoo)
    assert predictor.evaluate(zoo) == [seed["last"]["test"] for seed in run.result["seeds"]]
    exported.export(run, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "which of 3 classes a network has" in card and "mean average precision" in card
    rows = zoo.splits["test"]
    for each in (predictor, exported.load(tmp_path / "model")):
        predictions = each.predict(zoo.read(rows))
        shares = jax.nn.sigmoid(run.outputs(rows))
        np.testing.assert_allclose(predictions.values, shares.mean(axis=0), atol=1e-6)
        np.testing.assert_array_equal(predictions.predicted, predictions.values >= 0.5)
        lines = list(csv.DictReader(predictions.to_csv().splitlines()))
        assert list(lines[0]) == ["network", "predicted", *(f"p_{name}" for name in NAMES), "error"]
        for line, has in zip(lines, predictions.predicted, strict=True):
            names = "|".join(name for name, one in zip(NAMES, has, strict=True) if one)
            assert line["predicted"].removeprefix("'") == names
            assert not line["predicted"].startswith("=")


def test_a_network_that_cannot_be_read_has_no_classes(run):
    run, zoo = run
    predictions = probegen_jax.load(run.folder, zoo=zoo).predict(["gone.safetensors"])
    assert predictions.predicted.tolist() == [[-1, -1, -1]]
    (line,) = csv.DictReader(predictions.to_csv().splitlines())
    assert line["network"] == "gone.safetensors" and line["predicted"] == line["p_right"] == ""
    assert "cannot be read" in line["error"]


def test_the_report_tells_of_each_class(run):
    run, zoo = run
    shown = findings.find(run)
    assert "test accuracy, last" in sections.results(shown)
    assert shown.called([1, 0, 1]) == "=left, up|down" and shown.called([0, 0, 0]) == "none"
    assert {plane.target for plane in shown.planes} <= {
        shown.called(row) for row in zoo.targets_N.tolist()
    }
    assert len({plane.target for plane in shown.planes}) == len(shown.planes) > 1
    for net in shown.wrong:
        assert net.target == zoo.targets_N[net.row].tolist() != net.predicted
    body = sections.predictions(shown)
    for name, number in zip(NAMES, shown.targets_N.sum(axis=0), strict=True):
        assert f'<th scope="row">{name}</th><td class="n">{number}</td>' in body


def test_many_classes_of_a_network_are_cut_short():
    many = findings._called([1] * 30, [f"class {n}" for n in range(30)])
    assert many.endswith("class 9 and 20 more")


def with_targets(zoo, change):
    targets_N = zoo.targets_N.copy()
    change(targets_N, zoo.splits)
    settings = {"task": zoo.task, "splits_of": zoo.splits}
    return own.from_arrays("mine", zoo.spec, zoo.weights, targets_N, **settings)


def test_what_cannot_be_learnt_is_told_before(run):
    run, zoo = run
    config = run.experiment.config

    def notes(change):
        return checks.check_zoo(with_targets(zoo, change), config, make_mesh(9))

    def absent(split):
        return lambda has, splits: has.__setitem__((splits[split], 1), 0)

    assert notes(lambda has, splits: None) == []
    (note,) = notes(absent("test"))
    assert note == "mine: no network of the split 'test' has the class '1'; the mean leaves it out"
    assert "'train' has the class '1'; it cannot be learnt" in notes(absent("train"))[0]
    with pytest.raises(UserError, match="no network of the split 'val' has any class"):
        notes(lambda has, splits: has.__setitem__(splits["val"], 0))
    with pytest.raises(UserError, match="all 63 training networks have the same classes"):
        notes(lambda has, splits: has.__setitem__(splits["train"], [1, 1, 0]))


@pytest.mark.parametrize(
    ("has", "told"),
    [
        (np.arange(90) % 2, r"targets are int64 \(90,\); give a row of 0 and 1"),
        (np.full((90, 2), 2), "give a row of 0 and 1"),
        (np.zeros((90, 0), int), "with a column for each class"),
    ],
)
def test_arrays_that_are_no_classes(run, has, told):
    _, zoo = run
    with pytest.raises(UserError, match=told):
        own.from_arrays("mine", zoo.spec, zoo.weights, has, task="multilabel")


def test_several_classes_are_asked_for(run):
    _, zoo = run
    with pytest.raises(UserError, match=r'task="multilabel" for networks with several classes'):
        own.from_arrays("mine", zoo.spec, zoo.weights, zoo.targets_N, task="classification")
    with pytest.raises(UserError, match="targets have 3 columns, but there are 2 classes"):
        own.from_arrays("m", zoo.spec, zoo.weights, zoo.targets_N, task="multilabel", num_outputs=2)


# Files of one's own.


@pytest.mark.slow
def test_from_files_to_predictions(tmp_path, monkeypatch, capsys):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    random = np.random.default_rng(0)
    folder = tmp_path / "zoo"
    folder.mkdir()
    lines = ["path,target"]
    for n in range(24):
        shapes = {"seq.0.weight": (4, 2), "seq.0.bias": (4,), "seq.1.weight": (1, 4)}
        arrays = {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
        save_file(arrays | {"seq.1.bias": np.zeros(1, np.float32)}, folder / f"{n}.safetensors")
        lines.append(f"{n}.safetensors,{['', 'cat', 'dog', 'cat|dog'][n % 4]}")
    table = write(tmp_path / "targets.csv", lines)
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"--config={REPO / 'configs' / 'own_inr.py'}", f"--config.networks_dir={folder}",
        f"--config.targets_csv={table}", "--config.task=multilabel", "--config.hidden=(4,)",
        "--config.num_epochs=1", "--config.num_probes=4", "--config.batch_size=8",
        "--config.head_depth=2", f"--config.data_dir={tmp_path / 'data'}",
    ]  # fmt: skip
    describe_zoo.main(["describe_zoo", *arguments])
    assert "multilabel of 2 classes, 1.0 to a network" in capsys.readouterr().out
    config = settings.parse(["train", *arguments], "").config
    assert not settings.standardizes(config)
    result = train.train(config, str(tmp_path / "run"))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "By class" in page and "average precision" in page
    assert 0 <= result["mean"] <= 1 and "(accuracy 0." in capsys.readouterr().out
    predict.main(["predict", str(tmp_path / "run"), str(folder)])
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["predicted"] for row in rows} <= {"", "cat", "dog", "cat|dog"}
    assert all(0 <= float(row["p_cat"]) <= 1 for row in rows)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["mean"] == result["mean"]

    ours = settings.parse(["compare", *arguments], "")
    flags = {"torch_checkpoint": ["x.pth"], "torch_log": [], "torch_seed": [], "torch_probes": []}
    write(tmp_path / "x.pth", ["no checkpoint"])
    flags |= {"workdir": None, "export": None, "out": str(tmp_path / "compare.json")}
    with pytest.raises(UserError, match="several classes, which the official code does not have"):
        compare(ours.config, type("Options", (), flags), "configs/own_inr.py")
