"""Locks that end with their holder, on disks of all kinds."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import REPO

from probegen_jax import locks
from probegen_jax.errors import UserError

HOLD = """
import pathlib, sys, time
from probegen_jax import locks
with locks.lock(pathlib.Path(sys.argv[1]), "works there"):
    print("held", locks.me(), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / ".lock"


@pytest.fixture
def holder(path):
    """Another process that has the lock, and what it calls itself."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        process.me = process.stdout.readline().split()[1]
        yield process
        process.kill()


def try_it(path):
    with locks.lock(path, "works there", remedy="wait"):
        pass


def refused(number):
    return rf"^process {number} on {socket.gethostname()} works there; wait$"


def test_the_second_is_told_who_has_it_until_that_one_dies(path, holder):
    with pytest.raises(UserError, match=refused(holder.pid)):
        try_it(path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.exists()
    try_it(path)
    assert not path.exists()


def test_it_is_free_again_after_a_fault_in_the_same_process(path):
    with pytest.raises(KeyError), locks.lock(path, "works there", keep=True):
        with pytest.raises(UserError, match=refused(os.getpid())):
            try_it(path)
        raise KeyError
    assert path.read_text() == ""  # kept, and it tells of nobody
    try_it(path)


@pytest.fixture
def no_locks(monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_disk_without_locks_knows_the_processes_of_this_machine(path, holder, no_locks, capsys):
    with pytest.raises(UserError, match=refused(holder.pid)):
        try_it(path)
    holder.kill()
    holder.wait()
    try_it(path)
    assert capsys.readouterr().err == ""


def test_a_disk_without_locks_warns_of_other_machines(path, no_locks, capsys):
    path.parent.mkdir()
    path.write_text("process 1 on elsewhere\n01234567-1-1\n")
    try_it(path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: the disk of {path.parent} has no locks (No locks available)")


def test_what_is_known_of_a_process(holder):
    assert locks.is_alive(locks.me())
    assert locks.is_alive(holder.me)
    machine, number, begun = holder.me.split("-")
    assert not locks.is_alive(f"{machine}-{number}-{int(begun) - 1}")  # the number is used again
    assert locks.is_alive(f"{'0' * 8}-{number}-{begun}") is None  # of another machine
    assert locks.is_alive("nobody") is None
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert locks.is_alive(holder.me) is False  # dead, even if nobody has looked after it yet
