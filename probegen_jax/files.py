"""Files that are whole or not there: written under another name, then renamed; cells of tables."""

import contextlib
import csv
import hashlib
import json
import lzma
import os
import pathlib
import re
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from probegen_jax import locks
from probegen_jax.errors import UserError

# What libraries raise of a damaged file, and of one that is made up; RuntimeError: of a zip that is
# encrypted, or nested too deeply.
UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError, SyntaxError, AssertionError, zipfile.BadZipFile, zlib.error),
    *(tarfile.TarError, lzma.LZMAError, csv.Error),
)
_DEEPEST = 64  # levels of a JSON file

_FORGOTTEN = 24 * 3600.0  # seconds
_cleared: set[pathlib.Path] = set()  # folders, by this process


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, sync: bool = True) -> Iterator[pathlib.Path]:
    """A temporary name beside `path`, where a file or a folder is made that becomes `path`.

    It gets its name when the block ends, and replaces a file that had it. Where the block fails,
    nothing is left of it. What a killed process leaves is hidden: its name starts with a dot. The
    next process that writes in the same folder removes it, see `clear`.

    Args:
      path: of the file or folder.
      sync: whether everything is on the disk before the renaming, so that not even a power cut
        leaves half a file under the name. It takes milliseconds a file.

    Raises:
      OSError: what the system says.
    """
    temporary = path.with_name(f".{path.name}.{locks.me()}")
    _remove(temporary)
    if path.parent not in _cleared:
        _cleared.add(path.parent)
        clear(path.parent)
    try:
        yield temporary
        if sync:
            _flush(temporary)
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise


def clear(folder: pathlib.Path) -> None:
    """Removes what processes that are dead were making in a folder with `replacing`.

    What one that lives is making stays. Of other machines, which may share the disk, nobody here
    knows whether a process lives: what they were making goes after a day without a change.
    """
    with contextlib.suppress(OSError):  # no such folder, or nothing may be removed there
        for name in os.listdir(folder):
            maker = re.fullmatch(rf"\..+\.({locks.NAME})", name, re.DOTALL)
            if maker is None:
                continue
            alive = locks.is_alive(maker[1])
            if alive is False or (alive is None and _age(folder / name) > _FORGOTTEN):
                _remove(folder / name)


def _age(path: pathlib.Path) -> float:
    """Seconds since the last change of a file, or of anything in a folder."""
    inside = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    return time.time() - max(os.lstat(each).st_mtime for each in (path, *inside))


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in UTF-8: it is whole or not there."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file: it is whole or not there."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Reads a file of `write_json`.

    Raises:
      UserError: it is not JSON, or nested deeper than anything of ours.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path} ({error}); it should be JSON") from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [each for inner in level for each in _inside(inner)]
    if level:
        raise UserError(f"cannot read {path} (it is nested more than {_DEEPEST} deep)")
    return value


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def sha256_of(path: pathlib.Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cell(text: str) -> str:
    """Text for a table's cell; where a spreadsheet would take it for a formula, `'` goes before.

    Tabs and ends of lines, after which another cell might begin, become spaces.
    """
    text = f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
    return text.translate(dict.fromkeys(map(ord, "\t\r\n"), " "))


def _flush(path: pathlib.Path) -> None:
    """Has the system write a file, or all files of a folder, to the disk."""
    inside = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    for file in inside if path.is_dir() else [path]:
        opened = os.open(file, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # the fault that led here is the one to tell
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
