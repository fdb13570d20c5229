"""The commands in docs/pytorch.md are run as they stand."""

import importlib
import json
import os
import re
import shlex
import sys

import pytest
from conftest import REPO

sys.path.append(str(REPO / "scripts"))

import reproduce
import results_table

TEXT = (REPO / "docs" / "pytorch.md").read_text()


@pytest.mark.slow
def test_the_commands_run_and_agree(tmp_path, monkeypatch, digits_dir, capsys):
    pytest.importorskip("torch")
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(REPO / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("probegen_jax.user_cache.default_dir", lambda: digits_dir)
    commands = [
        command
        for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
        for command in block.splitlines()
    ]
    assert len(commands) == 6
    comparisons = []
    for command in commands:
        python, dash_m, module, *arguments = shlex.split(command)
        assert (python, dash_m) == ("python", "-m")
        importlib.import_module(module).main([module, *arguments])
        if (tmp_path / "compare.json").exists():
            comparisons.append(json.loads((tmp_path / "compare.json").read_text()))
            os.remove("compare.json")
    exported, compared, baseline = comparisons
    (ours,) = compared["ours"]["seeds"]
    assert exported["exported"] == ["ours.pth"]
    assert compared["torch"] == [
        {"checkpoint": "ours.pth", "val": ours["last"]["val"], "test": ours["last"]["test"]}
    ]
    shown = capsys.readouterr().out
    assert "the same figures as in runs/digits-probegen-64/result.json" in shown
    told = json.loads(re.search(r"^\{.*?^\}", shown, re.DOTALL | re.MULTILINE)[0])
    assert baseline["torch"][0]["test"] == pytest.approx(told["seeds"][0]["test"], abs=1.01 / 240)


def test_the_grid_commands_are_what_reproduce_reads(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    python scripts/reproduce.py ([^#\n]*)", TEXT, re.MULTILINE)
    numbers = []
    for arguments in commands:
        assert reproduce.main(["reproduce", *shlex.split(arguments), "--dry_run"]) == 0
        numbers.append(len(capsys.readouterr().out.splitlines()))
    assert numbers == [24, 24, 1, 24]


def test_the_results_are_a_table_of_the_whole_grid():
    _, table, _ = TEXT.split("<!-- results -->")
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    found = [(zoo.split()[0], method.strip(), int(number)) for _, zoo, method, number, *_ in rows]
    assert found == reproduce.selection([])
    assert results_table.to_markdown([]).splitlines()[0] == table.splitlines()[1]
