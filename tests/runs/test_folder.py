"""A run's folder: one training at a time, and finished when all that was promised is there."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import REPO
from small_run import go_on, make_zoo

from probegen_jax.errors import UserError
from probegen_jax.report.write import write_report
from probegen_jax.runs import experiment
from probegen_jax.training.records import MetricsLog

TENSORBOARD = importlib.util.find_spec("tensorboardX") is not None
ALL = {"report": True, "tensorboard": TENSORBOARD}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with all that there is."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    go_on(folder, **ALL)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def contents(folder):
    """All files but TensorBoard's, which tell when they were written."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in paths if path.parent.name != "tensorboard"}


def same(folder, other):
    ours, theirs = contents(folder), contents(other)
    assert {path.relative_to(folder): text for path, text in ours.items()} == {
        path.relative_to(other): text for path, text in theirs.items()
    }


def test_a_finished_folder_holds_no_more_than_it_should(whole):
    assert sorted(path.name for path in whole.iterdir()) == [
        *("checkpoints", "config.json", "curves.png", "metrics.jsonl", "pictures", "probes.png"),
        *("report.html", "result.json", *["tensorboard"] * TENSORBOARD, "zoo.json"),
    ]


@pytest.mark.parametrize(
    "lost", ["report.html", "curves.png", "pictures/predictions.svg", "metrics.jsonl"]
)
def test_what_is_missing_is_made_again_with_the_same_bytes(run, whole, capsys, lost):
    (run / lost).unlink()
    go_on(run, **ALL)
    assert f"is finished, but for {lost}: making that" in capsys.readouterr().out
    same(run, whole)
    go_on(run, **ALL)
    assert f"{run} is finished: test accuracy" in capsys.readouterr().out


def test_the_last_rows_of_the_metrics_are_made_again(run, whole):
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-100])
    go_on(run, **ALL)
    same(run, whole)


@pytest.mark.skipif(not TENSORBOARD, reason="tensorboardX is not installed")
def test_logs_for_tensorboard_are_made_again(run, capsys):
    shutil.rmtree(run / "tensorboard")
    go_on(run, **ALL)
    assert "is finished, but for tensorboard: making that" in capsys.readouterr().out
    events = b"".join(path.read_bytes() for path in (run / "tensorboard").iterdir())
    assert events.count(b"train_loss") == len((run / "metrics.jsonl").read_text().splitlines())


def test_a_run_without_a_report_is_finished_where_none_is_promised(run, capsys):
    for name in ("report.html", "curves.png", "probes.png"):
        (run / name).unlink()
    before = contents(run)
    go_on(run)
    assert f"{run} is finished: test accuracy" in capsys.readouterr().out
    assert contents(run) == before


def test_where_no_checkpoint_is_left_the_result_stays(run, capsys):
    (run / "report.html").unlink()
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    with pytest.raises(UserError, match="has no checkpoint"):  # so there is nothing to predict with
        go_on(run, report=True)
    told = capsys.readouterr()
    assert f"{run} is finished: test accuracy" in told.out
    assert "lacks report.html, which cannot be made: there is no checkpoint in" in told.err
    assert contents(run) == before


class Killed(BaseException):
    """As a signal that nothing catches."""


@pytest.fixture
def killed_at(monkeypatch):
    """Ends trainings in this process once they have logged a step."""

    def at(step):
        write = MetricsLog.write

        def stop(log, record):
            write(log, record)
            if record["step"] >= step:
                raise Killed

        monkeypatch.setattr(MetricsLog, "write", stop)
        return monkeypatch

    return at


def test_the_report_of_an_unfinished_run_does_not_count(tmp_path, whole, killed_at, capsys):
    """Its page and its pictures, of other networks perhaps, go with the next one."""
    run = tmp_path / "run"
    patched = killed_at(7)
    with pytest.raises(Killed):
        go_on(run, **ALL)
    patched.undo()
    write_report([experiment.load_run(run, zoo=make_zoo())])
    page = (run / "report.html").read_text()
    extra = "pictures/wrong-network-9999.svg"
    (run / extra).write_text("of another step")
    page = page.replace('name="pictures" content="', f'name="pictures" content="{extra} ')
    # As if the run had been killed between its result and its report.
    shutil.rmtree(run)
    shutil.copytree(whole, run)
    (run / extra).write_text("of another step")
    (run / "report.html").write_text(page)
    go_on(run, **ALL)
    assert "is finished, but for report.html" in capsys.readouterr().out
    same(run, whole)


def test_a_folder_is_free_again_after_a_fault(tmp_path, whole, killed_at, capsys):
    run = tmp_path / "run"
    patched = killed_at(3)
    with pytest.raises(Killed):
        go_on(run)
    patched.undo()
    assert not (run / ".lock").exists()
    go_on(run, **ALL)
    assert "resuming" in capsys.readouterr().out
    ours, theirs = (json.loads((f / "result.json").read_text()) for f in (run, whole))
    assert ours["seeds"] == theirs["seeds"]


def start(code, *args):
    """A process that runs the code as a command of ours."""
    code = f"""
import pathlib, sys, time
from probegen_jax import errors
from small_run import go_on

def main(argv):
    folder = pathlib.Path(argv[1])
{textwrap.indent(textwrap.dedent(code), "    ")}

errors.run(main)
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO / 'tests'}"}
    command = [sys.executable, "-uc", code, *map(str, args)]
    return subprocess.Popen(command, env=environment, **pipes)


WAITS = """
from probegen_jax.training.records import MetricsLog
write = MetricsLog.write

def wait(log, record):
    write(log, record)
    (folder.parent / "begun").touch()
    while not (folder.parent / "go").exists():
        time.sleep(0.01)

MetricsLog.write = wait
"""

LATE = "write(log, record)\n    if record['step'] < 9:\n        return"
WAITS_LATE = WAITS.replace("write(log, record)", LATE)


def begun(folder, process):
    deadline = time.monotonic() + 120
    while not (folder / "begun").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "shared", ["folder", pytest.param("checkpoint_dir", marks=pytest.mark.slow)]
)
def test_of_two_trainings_at_once_one_works_and_one_is_refused(tmp_path, whole, shared):
    """A checkpoint_dir that two runs share is no better than a folder."""
    run, other, more = tmp_path / "run", tmp_path / "run", ""
    if shared == "checkpoint_dir":
        other, more = tmp_path / "other", f", checkpoint_dir={str(tmp_path / 'saved')!r}"
    with start(
        f"{WAITS}\ngo_on(folder, report=True, tensorboard={TENSORBOARD}{more})", run
    ) as first:
        begun(tmp_path, first)
        with start(f"go_on(folder{more})", other) as second:
            _, error = second.communicate(timeout=120)
        (tmp_path / "go").touch()
        _, errors = first.communicate(timeout=120)
    holder = f"process {first.pid} on {socket.gethostname()}"
    does = f"trains in {run}"
    if shared == "checkpoint_dir":
        does = f"keeps the checkpoints of a run in {tmp_path / 'saved'}"
    assert (second.returncode, error) == (
        2,
        f"error: {holder} {does}; wait until it has ended, or choose another folder with "
        "--workdir=DIR\n",
    )
    assert first.returncode == 0, errors
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    results = [json.loads((f / "result.json").read_text()) for f in (run, whole)]
    assert results[0]["seeds"] == results[1]["seeds"]
    assert not [path for path in tmp_path.rglob("*") if "lock" in path.name]


@pytest.mark.slow
def test_what_a_killed_process_left_goes_with_the_next(tmp_path, whole):
    """Half a file, half a checkpoint, half of one that was being deleted, and the lock."""
    run = tmp_path / "run"
    code = f"{WAITS_LATE}\nfrom probegen_jax.files import replacing\n"
    code += "folder.mkdir()\nstack = replacing(folder / 'report.html')\n"
    code += "stack.__enter__().write_text('half')\ngo_on(folder)"
    with start(code, run) as process:
        begun(tmp_path, process)
        while not (run / "checkpoints" / "8").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    hidden = sorted(path.name for path in run.iterdir() if path.name.startswith("."))
    assert [re.sub(r"\.[0-9a-f]{8}-\d+-\d+$", "", name) for name in hidden] == [
        ".lock",
        ".report.html",
    ]
    (run / "checkpoints" / "2.orbax-checkpoint-tmp-1" / "arrays").mkdir(parents=True)
    (run / "checkpoints" / "4" / "facts").mkdir(parents=True, exist_ok=True)
    (run / ".writable").write_text("true")
    go_on(run, **ALL)
    assert sorted(map(str, (p.relative_to(run) for p in run.rglob(".*")))) == []
    checkpoints = [sorted(p.name for p in (f / "checkpoints").iterdir()) for f in (run, whole)]
    assert checkpoints[0] == checkpoints[1]
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_run_can_be_looked_at_while_it_is_trained(tmp_path):
    run = tmp_path / "run"
    waits = WAITS.replace(
        "write(log, record)", "write(log, record)\n    if record['step'] < 9: return"
    )
    with start(f"{waits}\ngo_on(folder, report=True)", run) as first:
        begun(tmp_path, first)
        (run / "report.html").unlink(missing_ok=True)
        loaded = experiment.load_run(run, zoo=make_zoo())
        assert loaded.result is None and 0 < loaded.step < 9
        write_report([loaded])
        assert "not finished" in (run / "report.html").read_text()
        (tmp_path / "go").touch()
        _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert "not finished" not in (run / "report.html").read_text()


def test_a_folder_that_cannot_be_written_is_told_only_if_there_is_something_to_do(run, monkeypatch):
    opened = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr("os.open", refuse)
    go_on(run, **ALL)
    (run / "report.html").unlink()
    with pytest.raises(UserError, match=r"cannot write the run folder .* \(Permission denied\)"):
        go_on(run, **ALL)
