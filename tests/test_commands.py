"""Every entry point: help with examples, one-line errors, nothing on the screen but its own."""

import fcntl
import importlib
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from conftest import REPO

from probegen_jax import errors

PACKAGE = REPO / "probegen_jax"
ENTRY_POINTS = sorted(
    ".".join(path.relative_to(REPO).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)


@pytest.mark.parametrize("module", ENTRY_POINTS)
def test_help_has_examples_and_exit_codes(module, capsys):
    main = importlib.import_module(module).main
    with pytest.raises(SystemExit) as stop:
        main([module, "--help"])
    assert stop.value.code in (0, None)
    shown = capsys.readouterr().out
    assert shown.count(f"python -m {module.removesuffix('.__main__')} ") >= 2
    assert "Exit codes: 0 " in shown and "2 a mistake" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_there_are_all_of_them():
    names = {
        module.removeprefix("probegen_jax.").removesuffix(".__main__") for module in ENTRY_POINTS
    }
    assert names >= {"train", "report", "predict", "export", "describe_zoo", "compare", "evaluate"}


def test_debug_shows_the_trace(capsys, monkeypatch):
    def main(argv):
        assert argv == ["x", "--out=y"]
        raise errors.UserError("no such thing")

    for arguments, traced in ((["x", "--out=y"], False), (["x", "--debug", "--out=y"], True)):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit):
            errors.run(main)
        shown = capsys.readouterr().err
        assert shown.endswith("error: no such thing\n") and ("Traceback" in shown) == traced


@pytest.fixture
def command(digits_dir):
    return [
        sys.executable,
        "-m",
        "probegen_jax.train",
        "--config=configs/digits.py:probegen,4",
        f"--config.data_dir={digits_dir}",
        "--config.num_epochs=2",
        "--config.num_seeds=1",
        "--config.eval_every=45",
        "--config.report=False",
    ]


def test_piped_it_prints_a_few_plain_lines(command, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.run(
        [*command, f"--workdir={folder}"], cwd=REPO, capture_output=True, text=True
    )
    assert process.returncode == 0 and process.stderr == ""
    first, last = process.stdout.splitlines()
    assert first == (
        f"training probegen-4 on digits: 1437 networks, 90 steps, 1 seed(s), in {folder}"
    )
    assert last.startswith(f"{folder}: test accuracy 0.")


@pytest.mark.slow
def test_on_a_terminal_it_shows_a_live_bar(command, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    process = subprocess.Popen(
        [*command, f"--workdir={tmp_path / 'run'}"],
        cwd=REPO,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # how a terminal ends on Linux
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    bars = [part for part in re.split(r"[\r\n]+", shown.decode()) if part.startswith("training: ")]
    assert len(bars) >= 3, shown.decode()
    assert "0/90" in bars[0] and "100%" in bars[-1] and "90/90" in bars[-1]
    assert re.search(r"epoch=2, loss=\d\.\d+, val accuracy=0\.\d+", bars[-1])
    assert "warning" not in shown.decode().lower()
