"""Work that one process at a time does, and which process is dead: a lock ends with its holder."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import pathlib
import re
import socket
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from probegen_jax.errors import UserError

# Of `me`: the machine, the process, and when it was started.
NAME = r"([0-9a-f]{8})-(\d+)-(\d+)"
_UNKNOWN = 0
# What disks say that have no locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def lock(
    path: pathlib.Path, task: str, *, keep: bool = False, remedy: str | None = None
) -> Iterator[None]:
    """Holds a file that one process at a time has; it is free again when that one ends or dies.

    The file says who holds it. On a disk without locks that is all there is: a process of this
    machine is looked for by its number, one of another machine is not noticed, and a warning says
    so.

    Args:
      path: of the file; its folder is made.
      task: what the other process does, for the message, as in "prepares mnist_inr".
      keep: whether the file stays, empty, when the block ends.
      remedy: what to do where another process has it; None waits for it.

    Raises:
      UserError: another process has it, and there is a `remedy`.
      OSError: what the system says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(opened, "r+", encoding="utf-8", errors="replace") as file:
            if not _take(file, path, wait=False):
                if remedy is not None:
                    raise UserError(f"{_holder(file)} {task}; {remedy}")
                print(f"waiting for another process that {task}", flush=True)
                _take(file, path, wait=True)
            # Whoever had it may have removed it, and a third may lock a new file of that name.
            if not _is_at(file.fileno(), path):
                continue
            _write(file, f"process {os.getpid()} on {socket.gethostname()}\n{me()}\n")
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # the folder itself may be gone
                    if keep:
                        _write(file, "")
                    else:
                        path.unlink(missing_ok=True)
            return


def me() -> str:
    """A name for this process that no other has, on no machine; see `NAME`."""
    return f"{_machine()}-{os.getpid()}-{_begun(os.getpid())}"


def is_alive(name: str) -> bool | None:
    """Whether the process lives that `me` called so; None if it is not of this machine."""
    found = re.fullmatch(NAME, name)
    if found is None or found[1] != _machine():
        return None
    return _begun(int(found[2])) in (int(found[3]), _UNKNOWN)


def _take(file: TextIO, path: pathlib.Path, wait: bool) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        while (alive := _holder_lives(file)) and wait:
            time.sleep(1)
        if alive is None:
            print(
                f"warning: the disk of {path.parent} has no locks ({error.strerror}); make sure "
                "that no other machine works in it",
                file=sys.stderr,
            )
        return not alive
    return True


def _holder(file: TextIO) -> str:
    """Who has the lock, as far as the file says."""
    for _ in range(20):  # it may be about to write its name
        file.seek(0)
        if line := file.readline().strip():
            return line
        time.sleep(0.05)
    return "another process"


def _holder_lives(file: TextIO) -> bool | None:
    """Whether the process lives that the file names, if it is another; None: it cannot be known."""
    file.seek(0)
    names = file.read().splitlines()[1:]
    return is_alive(names[0]) if names and names[0] != me() else None


def _write(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _is_at(opened: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False


@functools.cache
def _machine() -> str:
    """A digest of this host since it was started and, in a container, of that."""
    facts = [socket.gethostname()]
    for read in (
        lambda: pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        with contextlib.suppress(OSError):  # not Linux
            facts.append(read())
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _begun(number: int) -> int | None:
    """When a process of this machine was started, in the system's ticks; None if it is dead.

    Where the system does not tell, `_UNKNOWN`.
    """
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # another user's
        pass
    try:
        stat = pathlib.Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return _UNKNOWN
    state, *numbers = stat.rpartition(")")[2].split()  # the name before may hold anything
    return None if state in "ZX" else int(numbers[18])
