"""Classes are called as their zoo calls them, from the CSV to the report, whatever that is."""

import csv
import dataclasses
import json
import pathlib

import numpy as np
import pytest

import probegen_jax
from probegen_jax import predict, settings, train
from probegen_jax.errors import UserError
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.report import sections
from probegen_jax.report.findings import Findings, Importance, Wrong
from probegen_jax.runs import exported
from probegen_jax.runs.experiment import load_run
from probegen_jax.zoo.own import files_and_targets, targets

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
NAMES = ["=1+1", "<script>alert(1)</script>", "3.0"]


def listing(path, values):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "target"])
        rows.writerows([f"{n}.safetensors", value] for n, value in enumerate(values))
    return path


@pytest.mark.parametrize(
    ("values", "names", "classes"),
    [
        (["2019", "2020", "2019"], ("2019", "2020"), [0, 1, 0]),
        (["10", "9", "-1"], ("-1", "9", "10"), [2, 1, 0]),
        (["dog", " cat ", "dog"], ("cat", "dog"), [1, 0, 1]),
        (["3.0", "1e1", "3.0"], ("3.0", "1e1"), [0, 1, 0]),
        (["nan", "1", "2"], ("1", "2", "nan"), [2, 0, 1]),
        (["1", "0", "2"], ("0", "1", "2"), [1, 0, 2]),
    ],
)
def test_classes_are_the_targets_that_occur(values, names, classes, tmp_path):
    found = targets.read_csv(listing(tmp_path / "t.csv", values), "classification")
    assert found.class_names == names
    assert found.targets.tolist() == classes


def test_classes_that_are_counted_are_so_many(tmp_path):
    path = listing(tmp_path / "t.csv", ["0", "4"])
    assert targets.read_csv(path, "classification", 5).targets.tolist() == [0, 4]
    with pytest.raises(UserError, match=r"'4' of 1\.safetensors is not a class number from 0 to 3"):
        targets.read_csv(path, "classification", 4)


def test_targets_that_are_no_classes_are_told(tmp_path):
    path = listing(tmp_path / "t.csv", [f"{n / 7}" for n in range(30)])
    with pytest.raises(UserError, match=r"all 30 networks have targets of their own.*regression"):
        targets.read_csv(path, "classification")
    with pytest.raises(UserError, match=r"the targets '3' and '3\.0' are the same number"):
        targets.read_csv(listing(path, ["3", "3.0", "4"]), "classification")
    with pytest.raises(UserError, match=r"line 3: target '' of .* is not the name of a class"):
        targets.read_csv(listing(path, ["3", ""]), "classification")


@pytest.mark.parametrize("labels", [np.array([2019, 2020]), np.array(["cat", "dog"])])
def test_arrays_of_labels(labels):
    spec = SirenSpec(hidden=(4,))
    weights = np.zeros((20, spec.num_weights), np.float32)
    zoo = files_and_targets.from_arrays(
        "mine", spec, weights, labels[np.arange(20) % 2], task="classification"
    )
    assert (zoo.num_outputs, zoo.class_names) == (2, tuple(map(str, labels)))
    assert zoo.targets_N.tolist() == [0, 1] * 10
    assert str(labels[1]) in zoo.describe()


@pytest.mark.slow  # a training
def test_names_from_the_csv_to_the_report(tmp_path, monkeypatch):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    rng = np.random.default_rng(0)
    folder = tmp_path / "zoo"
    folder.mkdir()
    for n in range(24):
        shapes = {"seq.0.weight": (4, 2), "seq.0.bias": (4,), "seq.1.weight": (1, 4)}
        arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
        save_file(arrays | {"seq.1.bias": np.zeros(1, np.float32)}, folder / f"{n}.safetensors")
    table = listing(tmp_path / "targets.csv", [NAMES[n % 3] for n in range(24)])
    monkeypatch.chdir(tmp_path)
    config = settings.parse(
        ["train", f"--config={REPO / 'configs' / 'own_inr.py'}", f"--config.networks_dir={folder}",
         f"--config.targets_csv={table}", "--config.hidden=(4,)", "--config.num_epochs=1",
         "--config.num_probes=4", "--config.batch_size=8", "--config.head_depth=2",
         f"--config.data_dir={tmp_path / 'data'}"], "",
    ).config  # fmt: skip
    train.train(config, str(tmp_path / "run"))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    for picture in (tmp_path / "run" / "pictures").iterdir():
        assert "<script>" not in picture.read_text(encoding="utf-8")

    exported.export(load_run(tmp_path / "run"), tmp_path / "model")
    names = sorted(NAMES)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["class_names"] == names
    for place in ("run", "model"):
        assert list(probegen_jax.load(tmp_path / place).class_names) == names
        predict.main(["predict", str(tmp_path / place), str(folder)])
        with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [f"p_{name}" for name in names] == list(rows[0])[2:-1]
        assert {row["predicted"] for row in rows} <= {"'=1+1", *names}
        assert not [row for row in rows if row["predicted"] == "=1+1"]


def findings(classes: int, names: list[str]) -> Findings:
    rng = np.random.default_rng(0)
    rows = 400
    nothing = np.zeros((0, 2), np.float32)
    worth = Importance(1, 0.0, np.zeros(1, np.float32), 0.0, np.zeros(1, np.float32))
    outputs = rng.standard_normal((rows, classes)).astype(np.float32)
    return Findings(
        name="run", folder=pathlib.Path("run"), config={}, result={"metric": "accuracy"},
        records=[], facts={}, probes_before=nothing, probes_after=nothing, planes=[],
        targets_N=rng.integers(0, classes, rows).astype(np.int32), outputs_NxO=outputs,
        wrong=[Wrong(0, 0.0, 1.0, 0.5, None)], importance=worth, class_names=names,
    )  # fmt: skip


@pytest.mark.parametrize("classes", [2, 21, 61, 2021, 20_000])
def test_a_report_stays_small_however_many_classes_there_are(classes):
    run = findings(classes, [f"<b>class {n}" for n in range(classes)])
    body = sections.predictions(run) + sections.wrong(run) + sections.prediction_chart(run)
    assert len(body) < 2_000_000
    assert "<b>class" not in body and "&lt;b&gt;class" in body
    right = int((run.outputs_NxO.argmax(-1) == run.targets_N).sum())
    assert f"{right} of 400 networks on the diagonal" in body
    counted = dataclasses.replace(run, class_names=None)
    assert ">0<" in sections.wrong(counted)
