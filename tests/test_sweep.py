"""scripts/sweep.py: what is run, and the curves that are made of it."""

import csv
import json
import shutil
import sys

import pytest
from conftest import REPO

sys.path[:0] = [str(REPO / "scripts")]

import sweep

from probegen_jax.errors import UserError

DIGITS = f"--config={REPO / 'configs' / 'digits.py'}"


def test_every_point_is_one_run(tmp_path, capsys):
    argv = ["x", DIGITS, f"--out={tmp_path}", "--probes=4,16", "--networks=200", "--dry_run"]
    assert sweep.main([*argv, "--methods=probegen:hidden,pixels", "--config.num_epochs=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(f"--workdir={tmp_path}/")[1] for line in lines] == [
        "probegen-hidden-4probes",
        "probegen-hidden-16probes",
        "probegen-hidden-200networks",
        "pixels",  # which decide their number
        "pixels-200networks",
    ]
    assert lines[1].startswith(
        f"python -m probegen_jax.train {DIGITS} --config.method=probegen "
        "--config.num_seeds=3 --config.num_epochs=2 --config.readout=hidden "
        "--config.num_probes=16 --workdir="
    )
    assert "--config.max_train_networks=200" in lines[4]
    assert not list(tmp_path.iterdir())


def test_a_curve_can_have_settings_of_its_own(tmp_path, capsys):
    argv = ["x", DIGITS, f"--out={tmp_path}", "--probes=4", "--dry_run"]
    methods = "probegen,vanilla:hidden+probe_dropout=0.1+head_depth=3"
    assert sweep.main([*argv, f"--methods={methods}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "head_depth" not in lines[0]
    assert lines[1] == (
        f"python -m probegen_jax.train {DIGITS} --config.method=vanilla "
        "--config.num_seeds=3 --config.readout=hidden --config.probe_dropout=0.1 "
        "--config.head_depth=3 --config.num_probes=4 "
        f"--workdir={tmp_path}/vanilla-hidden-probe_dropout=0.1-head_depth=3-4probes"
    )


def test_a_config_whose_argument_is_another_thing_is_swept_too(tmp_path, capsys):
    config = f"--config={REPO / 'configs' / 'small_cnn_zoo.py'}:mnist"
    argv = ["x", config, f"--out={tmp_path}", "--probes=", "--networks=50,60", "--dry_run"]
    assert sweep.main([*argv, "--methods=vanilla,statnn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(f"--workdir={tmp_path}/")[1] for line in lines] == [
        f"{method}-{networks}networks" for method in ("vanilla", "statnn") for networks in (50, 60)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["--out=x"], "say which zoo, and where the runs go"),
        ([DIGITS, "--out=x", "--methods=probegen:hiden"], "--methods names 'probegen:hiden'"),
        ([DIGITS, "--out=x", "--methods=uniformly"], "--methods names 'uniformly'"),
        ([DIGITS, "--out=x", "--methods=probegen+ema"], "a setting is given as [+]KEY=VALUE"),
        ([DIGITS, "--out=x", "--methods=probegen+emma=1"], "unknown config key 'emma'"),
        ([DIGITS, "--out=x", "--probes=16,many"], "--probes names 'many'"),
        ([DIGITS, "--out=x", "--networks=0"], "--networks names '0'"),
        ([DIGITS, "--out=x", "--config.nmu_epochs=3"], "unknown config key 'nmu_epochs'"),
    ),
)
def test_mistakes_are_told_before_anything_runs(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        sweep.main(["sweep", *arguments])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("at_once", "threads"), ((1, None), (2, "3"), (4, "1"), (9, "1")))
def test_trainings_side_by_side_share_the_cores(at_once, threads, tmp_path, monkeypatch):
    environments = []

    class Process:
        def __init__(self, command, *, env, pass_fds):
            environments.append(env)

        def wait(self):
            return 0

    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setattr(sweep.grid.cpu_devices, "cores", lambda: 6)
    monkeypatch.setattr(sweep.grid.subprocess, "Popen", Process)
    sweep.main(["x", DIGITS, f"--out={tmp_path}", "--probes=4,8", f"--at_once={at_once}"])
    assert len(environments) == 8
    assert {env.get("NPROC") for env in environments} == {threads}


@pytest.mark.slow  # four trainings
def test_a_sweep_of_the_digits_ends_with_a_table_and_a_picture(tmp_path, capfd):
    argv = ["x", DIGITS, f"--out={tmp_path}", "--probes=4,8", "--networks=100", "--at_once=2"]
    argv += ["--methods=probegen:hidden,pixels", "--num_seeds=2", "--config.num_epochs=1"]
    assert sweep.main(argv) == 0
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done"] * 5
    few, more, fewer_networks, pixels, _ = rows
    assert fewer_networks["train_networks"] == "100"
    assert float(few["mflop"]) < float(more["mflop"])
    # 64 points: a layer of 32 and the output (the first layer is no matmul), then the head.
    hidden, head = 2 * 64 * (32 * 32 + 32), 2 * (64 * 256 + 4 * 256**2 + 256 * 10)
    assert float(pixels["mflop"]) == pytest.approx((hidden + head) / 1e6, rel=1e-3)
    result = json.loads((tmp_path / "probegen-hidden-4probes" / "result.json").read_text())
    assert float(few["test_mean"]) == pytest.approx(result["mean"])
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    assert "| probegen | hidden |  | 8 |" in (tmp_path / "sweep.md").read_text()

    shutil.rmtree(tmp_path / "pixels")
    capfd.readouterr()
    assert sweep.main(argv) == 0  # runs the missing one, and no other
    assert capfd.readouterr().out.count("training ") == 1 + 1  # and a column of the table
