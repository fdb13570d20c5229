"""Predictions for a user's own files: as evaluation gives them, with a reason for each bad file."""

import csv
import dataclasses
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import REPO

import probegen_jax
from probegen_jax import build_zoo, settings, train
from probegen_jax.errors import UserError
from probegen_jax.export import main as export
from probegen_jax.networks.options import ReadOptions
from probegen_jax.predict import main
from probegen_jax.runs import experiment, predictor
from probegen_jax.zoo.files import inr_files, torch_files


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_dir):
    """A short run on the digits, loaded; two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    values = settings.parse(
        [
            "train",
            f"--config={REPO}/configs/digits.py:probegen,16",
            f"--config.data_dir={digits_dir}",
            "--config.num_epochs=3",
            "--config.num_seeds=2",
            "--config.report=False",
        ],
        "",
    )
    train.train(values.config, str(folder))
    return experiment.load_run(folder)


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    """The run, exported to a folder beside which there is neither run nor zoo."""
    out = tmp_path_factory.mktemp("models") / "digits"
    export(["export", str(run.folder), str(out)])
    return out


def state_of(zoo, row):
    network = jax.tree.map(lambda leaf: leaf[row], zoo.weights)
    return inr_files.to_state(network, ReadOptions())


def probabilities(run, rows, which="last"):
    """What evaluation says of networks of the zoo, as probabilities, mean over seeds."""
    outputs = jax.nn.softmax(run.outputs(rows, which), axis=-1)
    return np.asarray(outputs).mean(axis=0)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """100 good networks of the zoo's test split and 5 broken in different ways."""
    pytest.importorskip("torch")
    import torch

    folder = tmp_path_factory.mktemp("networks")
    zoo = run.experiment.zoo
    for n, row in enumerate(zoo.splits["test"][:100]):
        torch_files.save_inr(folder / f"net_{n}.pth", state_of(zoo, row))
    good = state_of(zoo, 0)
    whole = (folder / "net_0.pth").read_bytes()
    (folder / "net_200.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "net_201.pth").write_bytes(b"")
    wide = {"seq.0.weight": np.zeros((64, 2), np.float32), "seq.0.bias": np.zeros(64, np.float32)}
    torch_files.save_inr(folder / "net_202.pth", good | wide)
    nan = {"seq.1.bias": np.full(32, np.nan, np.float32)}
    torch_files.save_inr(folder / "net_203.pth", good | nan)
    torch.save({"code": pathlib.PurePosixPath("/bin/sh")}, folder / "net_204.pth")
    (folder / "notes.txt").write_text("no network")
    return folder


REASONS = (
    "is truncated or damaged (not a complete zip archive)",
    "is an empty file",
    "seq.0.weight has shape (64, 2), expected (32, 2)",
    "seq.1.bias holds NaN or infinite weights",
    "its pickle asks for pathlib",
)


def test_100_good_and_5_broken_files(run, folder, tmp_path, digits_dir):
    out = tmp_path / "new" / "predictions.csv"
    process = subprocess.run(
        [sys.executable, "-m", "probegen_jax.predict", run.folder, folder, f"--out={out}"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1, process.stderr
    assert process.stdout == f"wrote {out}: 100 networks predicted, 5 not\n"
    rows = list(csv.DictReader(out.read_text().splitlines()))
    # In the order of the numbers in their names.
    names = [f"{folder}/net_{n}.pth" for n in (*range(100), *range(200, 205))]
    assert [row["network"] for row in rows] == names
    found = np.array([[row[f"p_{label}"] for label in range(10)] for row in rows[:100]], np.float32)
    expected = probabilities(run, run.experiment.zoo.splits["test"][:100])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    predicted = [int(row["predicted"]) for row in rows[:100]]
    assert predicted == expected.argmax(axis=1).tolist()
    assert [row["error"] for row in rows[:100]] == [""] * 100
    lines = process.stderr.splitlines()
    assert len(lines) == 5
    for row, line, reason in zip(rows[100:], lines, REASONS, strict=True):
        assert reason in row["error"] and row["predicted"] == row["p_0"] == ""
        assert line == f"{row['network']}: {row['error']}"
        assert "expects a SIREN 2→32→32→1 in float32, with arrays seq.0.weight to" in line


def test_an_exported_model_needs_nothing_else(run, model, folder, tmp_path):
    moved = tmp_path / "anywhere"
    shutil.copytree(model, moved)
    names = [folder / f"net_{n}.pth" for n in (3, 1)]
    predictions = probegen_jax.load(moved).predict(names)
    rows = run.experiment.zoo.splits["test"][[3, 1]]
    np.testing.assert_allclose(predictions.values, probabilities(run, rows), atol=1e-6)
    assert predictions.names == [str(name) for name in names] and predictions.faults == [None] * 2


def test_the_folder_of_a_model(run, model):
    content = json.loads((model / "config.json").read_text())
    assert content["result"] == run.result and content["seeds"] == [0, 1]
    card = (model / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: probegen_jax\n")
    assert f"| {run.result['seeds'][1]['last']['test']:.4f} |" in card
    from safetensors.numpy import load_file

    tensors = load_file(model / "model.safetensors")
    assert tensors["probes"].shape == (2, 16, 2)
    np.testing.assert_array_equal(
        tensors["generator.latents"], run.state.params["generator"]["latents"]
    )


def test_the_best_parameters_are_asked_for(run):
    rows = run.experiment.zoo.splits["val"]
    best = predictor.predictor_of(run, "best").predict_rows(run.experiment.zoo, rows)
    np.testing.assert_allclose(best.values, probabilities(run, rows, "best"), atol=1e-6)
    assert best.values_SxNxO.shape == (2, len(rows), 10)


def test_networks_in_memory(run, model):
    zoo = run.experiment.zoo
    loaded = probegen_jax.load(str(model))
    states = [state_of(zoo, row) for row in (5, 6)]
    expected = probabilities(run, np.array([5, 6]))
    np.testing.assert_allclose(loaded.predict(states).values, expected, atol=1e-6)
    np.testing.assert_allclose(loaded.predict(states[1]).values, expected[1:], atol=1e-6)
    torch = pytest.importorskip("torch")
    tensors = [{name: torch.tensor(leaf) for name, leaf in each.items()} for each in states]
    tensors[1]["seq.0.weight"] = tensors[1]["seq.0.weight"].double()
    mixed_up = loaded.predict(tensors)
    np.testing.assert_allclose(mixed_up.values, expected, atol=1e-6)
    assert mixed_up.notes == ("weights in float64 are converted to float32 (1)",)
    tensors[1]["seq.0.weight"] = tensors[1]["seq.0.weight"].int()
    mixed_up = loaded.predict(tensors)
    np.testing.assert_allclose(mixed_up.values[0], expected[0], atol=1e-6)
    assert mixed_up.faults[1].startswith("seq.0.weight is int32, not float32; this run expects")
    assert mixed_up.predicted[1] == -1 and np.isnan(mixed_up.values[1]).all()
    stacked = jax.tree.map(lambda leaf: leaf[5:7], zoo.weights)
    np.testing.assert_allclose(loaded.predict(stacked).values, expected, atol=1e-6)
    with pytest.raises(UserError, match="the same number of networks along the first axis"):
        loaded.predict(({"kernel": np.zeros((2, 2, 32)), "bias": np.zeros((3, 32))},))


def test_a_split_of_the_runs_own_zoo(run, tmp_path, capsys):
    out = tmp_path / "test.csv"
    main(["predict", str(run.folder), "--split=test", f"--out={out}"])
    assert capsys.readouterr().out == f"wrote {out}: 240 networks predicted, 0 not\n"
    rows = list(csv.DictReader(out.read_text().splitlines()))
    places = run.experiment.zoo.splits["test"]
    assert [row["network"] for row in rows] == [f"digits/{place}" for place in places]
    right = [int(row["predicted"]) for row in rows] == run.experiment.zoo.targets_N[places]
    single = [seed["last"]["test"] for seed in run.result["seeds"]]
    assert min(single) - 0.05 <= np.mean(right) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run given"),
        (["{run}"], "give files to predict for, or --split=test"),
        (["{run}", "{tmp}"], "no network files here; they end in .pth, .pt, .safetensors"),
        (["{run}", "x.pth", "--out={tmp}"], "is a folder; give a file"),
        (["{run}", "x.pth", "--out=/proc/no/x.csv"], "cannot write /proc/no/x.csv"),
        (["{tmp}", "x.pth"], "is not a run folder: it has no config.json"),
        (["{model}", "--split=test"], "is an exported model, which has no zoo"),
        (["{run}", "x.pth", "--at=first"], "value should be one of <last|best>"),
    ],
)
def test_mistakes_are_told(arguments, message, run, model, tmp_path):
    places = {"run": run.folder, "tmp": tmp_path, "model": model}
    with pytest.raises(UserError) as error:
        main(["predict", *(argument.format(**places) for argument in arguments)])
    assert message in str(error.value)


def test_export_refuses_what_it_should(run, model, tmp_path):
    with pytest.raises(UserError, match="is there already"):
        export(["export", str(run.folder), str(model)])
    with pytest.raises(UserError, match="give the run and the folder to make"):
        export(["export", str(run.folder)])
    with pytest.raises(
        UserError, match=r"is at step 135 of 135, not finished; train it to its end"
    ):
        predictor.predictor_of(dataclasses.replace(run, result=None))
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", model, broken], check=True)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="not a whole model"):
        probegen_jax.load(broken)
    content = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(content | {"format": "probegen_jax 9"}))
    with pytest.raises(UserError, match="is not of the format 'probegen_jax 1'"):
        probegen_jax.load(broken)


def test_importing_the_package_imports_no_jax():
    code = "import sys, probegen_jax; assert probegen_jax.load; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)


def test_the_folder_of_a_build_is_a_zoo(run, tmp_path, capsys):
    zoo, out = tmp_path / "zoo", tmp_path / "table.csv"
    build = ["inr", "--images=digits", "--num=20", "--steps=2", f"--out={zoo}"]
    if importlib.util.find_spec("torch"):  # the files of an export are not to be taken for the zoo
        build.append("--export=torch")
    build_zoo.main(["build_zoo", *build])
    main(["predict", str(run.folder), str(zoo), f"--out={out}"])
    assert "20 networks predicted, 0 not" in capsys.readouterr().out
    names = [row["network"] for row in csv.DictReader(out.read_text().splitlines())]
    assert len(set(names)) == 20 and all(name.startswith("digits_inr_built/") for name in names)
    with pytest.raises(UserError, match=r"is a zoo; predict for it alone"):
        main(["predict", str(run.folder), str(zoo), "x.pth", f"--out={out}"])
