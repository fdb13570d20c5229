"""The output of a job's processes: process 0 prints to the terminal, each has a file."""

import contextlib
import io
import pathlib
import sys
from collections.abc import Iterator
from typing import TextIO

import jax


class _Both(io.TextIOBase):
    """The terminal and a file."""

    def __init__(self, terminal: TextIO, file: TextIO):
        self._terminal, self._file = terminal, file

    def write(self, text: str) -> int:
        self._file.write(text)
        self._file.flush()
        return self._terminal.write(text)

    def flush(self) -> None:
        self._terminal.flush()

    def isatty(self) -> bool:
        return self._terminal.isatty()


@contextlib.contextmanager
def log_files(folder: pathlib.Path) -> Iterator[None]:
    """Sends output to `folder/process-N.log`; that of process 0 to the terminal as well.

    Progress bars, which are for terminals, are then drawn by process 0 only. A job of one process
    needs no such files.
    """
    if jax.process_count() == 1:
        yield
        return
    folder.mkdir(exist_ok=True)
    path = folder / f"process-{jax.process_index()}.log"
    with path.open("a", encoding="utf-8", buffering=1) as file:
        if jax.process_index() == 0:
            out, err = _Both(sys.stdout, file), sys.stderr  # bars stay off the file
        else:
            out = err = file
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                yield
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=file)
                raise
