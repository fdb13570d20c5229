"""The reproduction grid: what it runs, what it skips, and its tables."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPO
from PIL import Image

sys.path.append(str(REPO / "scripts"))

import reproduce
import results_table

from probegen_jax.errors import UserError


def finished(out, name, test, num_seeds=2, **changes):
    """A run folder as `train` leaves it, with made-up figures."""
    zoo, method, number = name.rsplit("-", 2)
    arguments = ["x", f"--out={out}", f"--only={zoo},{method},{number}"]
    (run,) = [
        reproduce.GridRun(*chosen, out / name, reproduce._arguments(*chosen, out / name, 2, []))
        for chosen in reproduce.selection([zoo, method, number])
    ]
    folder = out / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(run.config() | changes))
    last = [{"step": 9, "val": test, "test": test + 0.01 * i} for i in range(num_seeds)]
    best = [{"step": 5, "val": test, "test": test + 0.1} for _ in range(num_seeds)]
    result = {
        "dataset": zoo,
        "method": method,
        "num_probes": int(number),
        "metric": "accuracy",
        "seeds": [
            {"seed": i, "last": a, "best": b}
            for i, (a, b) in enumerate(zip(last, best, strict=True))
        ],
        "mean": float(np.mean([entry["test"] for entry in last])),
        "std": float(np.std([e["test"] for e in last], ddof=1)) if num_seeds > 1 else 0.0,
        "train_networks": 1437,
        "steps": 9,
        "seconds": 12.0,
        "steps_per_second": 0.75,
        "environment": {"device": "1 × cpu (cpu)"},
    }
    (folder / "result.json").write_text(json.dumps(result))
    return arguments


def test_the_whole_grid_has_24_runs():
    chosen = reproduce.selection([])
    assert len(chosen) == len(set(chosen)) == 24
    assert {zoo for zoo, _, _ in chosen} == {"mnist", "fmnist", "cifar10_gs", "cifar10_wild_park"}
    assert ("mnist", "uniform", 64) in chosen and ("cifar10_gs", "dead_leaves", 128) in chosen


def test_only_selects_by_zoo_method_and_number():
    assert reproduce.selection(["mnist", "probegen", "64"]) == [("mnist", "probegen", 64)]
    assert reproduce.selection(["uniform", "64"]) == [
        ("mnist", "uniform", 64),
        ("fmnist", "uniform", 64),
    ]
    assert len(reproduce.selection(["digits", "digits_cnn"])) == 12
    assert reproduce.selection(["digits", "vanilla", "8"]) == [("digits", "vanilla", 8)]
    with pytest.raises(UserError, match="--only names 'mnits'; choose zoos"):
        reproduce.selection(["mnits"])


def test_dry_run_prints_the_commands_of_what_is_missing(tmp_path, capsys):
    finished(tmp_path, "digits-vanilla-64", 0.9)
    argv = [
        "reproduce",
        f"--out={tmp_path}",
        "--only=digits,fmnist,vanilla,probegen,64",
        "--num_seeds=2",
        "--digits.learning_rate=0.5",
        "--config.num_epochs=3",
        "--config.learning_rate=0.1",
        "--dry_run",
    ]
    assert reproduce.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    runs = [line.split("--workdir=")[1] for line in lines]
    assert runs == [
        f"{tmp_path}/{n}" for n in ("fmnist-probegen-64", "fmnist-vanilla-64", "digits-probegen-64")
    ]
    assert lines[0] == (
        "python -m probegen_jax.train --config=configs/fmnist.py:probegen,64 --config.num_seeds=2 "
        f"--config.num_epochs=3 --config.learning_rate=0.1 --workdir={tmp_path}/fmnist-probegen-64"
    )
    assert "--config.learning_rate=0.1 --config.learning_rate=0.5" in lines[2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits-vanilla-64"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["--only=digits"], "say where the runs go: --out=DIR"),
        (["--out=x", "--config.nmu_epochs=3"], "unknown config key 'nmu_epochs'"),
        (["--out=x", "--mnits.num_epochs=3"], "command line: Unknown command line flag"),
        (["--out=x", "grid"], "'grid' is not a flag"),
    ),
)
def test_mistakes_are_told_before_anything_runs(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        reproduce.main(["reproduce", *arguments])
    assert not list(tmp_path.iterdir())


def test_tables_and_plot_of_what_is_done_and_what_failed(tmp_path, capfd):
    """Nothing trains here: runs are done, or cannot go on."""
    finished(tmp_path, "digits-probegen-8", 0.9)
    finished(tmp_path, "digits-vanilla-8", 0.8)
    finished(tmp_path, "digits-uniform-8", 0.7, head_width=5)
    (tmp_path / "digits-probegen-16").mkdir()
    (tmp_path / "digits-probegen-16" / "thesis.tex").write_text("precious")
    argv = ["x", f"--out={tmp_path}", "--num_seeds=2"]
    assert reproduce.main([*argv, "--only=digits,probegen,16,8"]) == 1
    captured = capfd.readouterr()
    assert "error: " in captured.err and "thesis.tex" in captured.err
    assert "digits-probegen-16 failed with exit code 2" in captured.err
    assert reproduce.main([*argv, "--only=digits,8"]) == 1
    assert r"head_width (5 there, 256 here)" in capfd.readouterr().err

    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["status"]) for row in rows] == [
        ("probegen", "done"),
        ("vanilla", "done"),
        ("uniform", "failed"),
    ]
    assert float(rows[0]["test_mean"]) == pytest.approx(0.905)
    assert float(rows[0]["test_std"]) == pytest.approx(np.std([0.9, 0.91], ddof=1))
    assert rows[0]["device"] == "1 × cpu (cpu)" and rows[2]["test_mean"] == ""
    assert rows[0]["command"].startswith("python -m probegen_jax.train --config=configs/digits.py:")
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert lines[2:5] == [
        "| digits | probegen | 8 | accuracy | 2 | 0.9050 ± 0.0071 | 1.0000 ± 0.0000 | – | – |",
        "| digits | vanilla | 8 | accuracy | 2 | 0.8050 ± 0.0071 | 0.9000 ± 0.0000 | – | – |",
        "| digits | uniform | 8 |  |  | failed |  |  | – |",
    ]
    pixels = np.asarray(Image.open(tmp_path / "results.png").convert("RGB"))
    assert pixels.shape[0] > 300 and pixels.std() > 10


def test_published_figures_and_doubts_stand_beside(tmp_path, capsys):
    finished(tmp_path, "mnist-probegen-128", 0.97, 1)
    config = json.loads((tmp_path / "mnist-probegen-128" / "config.json").read_text())
    result = json.loads((tmp_path / "mnist-probegen-128" / "result.json").read_text())
    rows = [
        results_table.row("mnist", config | {"zoo_dir": "/zoos/mnist_small"}, result),
        results_table.row("cifar10_gs", {**config, "dataset": "cifar10_gs"}, None),
    ]
    (tmp_path / "results.csv").write_text(results_table.to_csv(rows))
    results_table.main(["results_table", str(tmp_path / "results.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| mnist (built: mnist_small) | probegen | 128 | accuracy | 1 |")
    assert lines[2].endswith("| 0.984 |")
    assert lines[3] == "| cifar10_gs | probegen | 128 |  |  | not run |  |  | 0.957 ? |"
    with pytest.raises(UserError, match=r"has the columns a, b; a results\.csv"):
        (tmp_path / "other.csv").write_text("a,b\n1,2\n")
        results_table.main(["results_table", str(tmp_path / "other.csv")])


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_table(tmp_path, digits_dir):
    """SIGKILL to a real process, started again until it is done."""

    def start(out):
        return subprocess.Popen(
            [
                sys.executable,
                REPO / "scripts" / "reproduce.py",
                f"--out={out}",
                "--only=digits,probegen,uniform,8",
                "--num_seeds=2",
                "--config.num_epochs=4",
                "--config.eval_every=40",
                "--config.checkpoint_every=40",
                "--config.report=False",
                f"--digits.data_dir={digits_dir}",
            ],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
        )

    assert start(tmp_path / "whole").wait() == 0
    out, kills = tmp_path / "killed", 0
    moments = random.Random(time.time_ns())  # any moment must do
    while True:
        process = start(out)
        before = sum(len(log.read_text()) for log in out.glob("*/metrics.jsonl"))
        while process.poll() is None and kills < 3:
            if sum(len(log.read_text()) for log in out.glob("*/metrics.jsonl")) > before:
                time.sleep(moments.uniform(0, 0.5))
                process.kill()
                process.wait()
            time.sleep(0.01)
        code = process.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills > 0
    tables = [(tmp_path / name / "results.md").read_text() for name in ("whole", "killed")]
    assert tables[0].splitlines()[:4] == tables[1].splitlines()[:4]
    assert tables[0].count("0.") >= 8
    for name in ("digits-probegen-8", "digits-uniform-8"):
        whole, killed = (
            json.loads((tmp_path / each / name / "result.json").read_text())
            for each in ("whole", "killed")
        )
        assert whole["seeds"] == killed["seeds"]
