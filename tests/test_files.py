"""Files and folders that are whole or not there."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPO

from probegen_jax import files


def write_file(temporary, text):
    temporary.write_text(text)


def write_folder(temporary, text):
    (temporary / "inner").mkdir(parents=True)
    (temporary / "inner" / "file").write_text(text)


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_it_gets_its_name_when_it_is_whole(tmp_path, write):
    path = tmp_path / "made"
    with files.replacing(path) as temporary:
        write(temporary, "whole")
        assert temporary.parent == tmp_path
        assert temporary.name[0] == "."
        assert str(os.getpid()) in temporary.name
        assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]
    inner = path / "inner" / "file" if path.is_dir() else path
    assert inner.read_text() == "whole"


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_nothing_is_left_of_what_failed(tmp_path, write, fault):
    with pytest.raises(fault), files.replacing(tmp_path / "made") as temporary:
        write(temporary, "half")
        raise fault
    assert list(tmp_path.iterdir()) == []


def test_a_file_stays_as_it_was_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"no JSON": object()})
    with pytest.raises(OSError, match="full"), files.replacing(path) as temporary:
        temporary.write_text('{"new"')
        raise OSError("disk full")
    assert files.read_json(path) == {"old": 1}
    files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"new": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_of_the_same_number_left_is_no_part_of_it(tmp_path):
    left = tmp_path / f".made.{os.getpid()}"
    write_folder(left, "half")
    with files.replacing(tmp_path / "made") as temporary:
        temporary.mkdir()
    assert list((tmp_path / "made").iterdir()) == []


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        files.write_text(tmp_path / "file" / "below", "text")


def killed_while_writing(path):
    """A process that wrote half a file and half a folder, and was killed."""
    code = f"""
import os, pathlib, signal
from probegen_jax.files import replacing
path = pathlib.Path({str(path)!r})
with replacing(path) as file, replacing(path.with_name("folder")) as folder:
    file.write_text("half")
    folder.mkdir()
    (folder / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(entry.name.split(".")[1] for entry in path.parent.iterdir()) == ["folder", "made"]


def test_the_next_process_removes_what_a_killed_one_left(tmp_path):
    killed_while_writing(tmp_path / "made")
    (tmp_path / ".mine.1234").write_text("not ours")
    files.write_text(tmp_path / "other", "whole")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".mine.1234", "other"]


def test_what_others_are_making_stays(tmp_path):
    with files.replacing(tmp_path / "made") as temporary:
        temporary.write_text("half")
        files.clear(tmp_path)
        assert temporary.exists()


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_what_another_machine_was_making_goes_after_a_day(tmp_path, write):
    left = tmp_path / ".made.01234567-1-1"
    write(left, "half")
    files.clear(tmp_path)
    assert left.exists()
    yesterday = time.time() - 25 * 3600
    for entry in (*left.rglob("*"), left):
        os.utime(entry, (yesterday, yesterday))
    files.clear(tmp_path)
    assert not left.exists()
