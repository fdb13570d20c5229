"""Work that one process at a time does, while others wait and say so."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def lock(path: pathlib.Path, task: str, *, keep: bool = False) -> Iterator[None]:
    """Holds a file that one process at a time has; it is free again when that one ends or dies.

    Args:
      path: of the file; its folder is made.
      task: what the other process does, for the message, as in "prepares mnist_inr".
      keep: whether the file stays when the block ends.

    Raises:
      OSError: what the system says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that {task}", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever had it may have removed it, and a third may lock a new file of that name.
            if not _is_at(file.fileno(), path):
                continue
            try:
                yield
            finally:
                if not keep:
                    path.unlink(missing_ok=True)
            return


def _is_at(opened: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False
