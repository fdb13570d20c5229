"""A file cache for arrays that are long to compute and fully determined by a key."""

import ast
import contextlib
import hashlib
import json
import pathlib
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from probegen_jax import locks
from probegen_jax.errors import UserError
from probegen_jax.files import UNREADABLE, replacing

Arrays = dict[str, np.ndarray]

_DIGEST = "sha256"  # name of the array that says what the others are

_ROOT = pathlib.Path(__file__).parents[2]


def make_folder(folder: pathlib.Path) -> None:
    """Makes the folder where zoos are kept, unless it is there; a `UserError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder} ({error.strerror}); choose another with "
            "--config.data_dir=DIR"
        ) from error


def digest(key: Mapping[str, Any]) -> str:
    """A short hash of a JSON-like key, of the platform and of the jax that computes the arrays."""
    everything = {"jax": jax.__version__, "platform": jax.default_backend(), **key}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def source_hash(
    module: types.ModuleType | str, rooms: Sequence[str], root: pathlib.Path = _ROOT
) -> str:
    """Hash of the source of a module and of what it imports, so that a change of code is noticed.

    Imports are read from the source, also those within functions, and followed in `rooms`, names of
    packages and modules. Nothing is imported. `root` is the folder of `probegen_jax`.
    """
    waiting = [module if isinstance(module, str) else module.__name__]
    sources: dict[str, bytes] = {}
    while waiting:
        name = waiting.pop()
        path = root.joinpath(*name.split(".")).with_suffix(".py")
        inside = any(f"{name}.".startswith(f"{room}.") for room in rooms)
        if name in sources or not inside or not path.is_file():
            continue
        sources[name] = path.read_bytes()
        for node in ast.walk(ast.parse(sources[name])):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                if node.level:
                    raise ValueError(f"{path}: line {node.lineno}: an import that is relative")
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if not sources:
        raise ValueError(f"{module} is no module in {', '.join(rooms)}")
    text = b"".join(name.encode() + sources[name] for name in sorted(sources))
    return hashlib.sha256(text).hexdigest()[:16]


def cached_arrays(
    folder: pathlib.Path, name: str, key: Mapping[str, Any], build: Callable[[], Arrays]
) -> Arrays:
    """The arrays of `build()`, read from `folder` where an earlier run left them.

    The key is everything that decides the arrays: a change of it means another file. Of several
    processes one builds, and the others wait. A `UserError` if the folder cannot be written; a file
    that cannot be read is rebuilt with a warning.
    """
    path = folder / f"{name}-{digest(key)}.npz"
    make_folder(folder)
    with contextlib.suppress(*UNREADABLE):
        return read_arrays(path)
    try:
        with locks.lock(path.with_name(f".{path.name}.lock"), f"makes {path}"):
            if path.exists():  # by another process meanwhile
                try:
                    return read_arrays(path)
                except UNREADABLE as error:
                    told = f"cache file {path} is corrupt ({error}); building it again"
                    warnings.warn(told, stacklevel=2)
            arrays = build()
            write_arrays(path, arrays)
    except OSError as error:
        raise UserError(
            f"cannot write the cache file {path} ({error.strerror}); free some space, or choose "
            "another folder with --config.data_dir=DIR"
        ) from error
    return arrays


def read_arrays(path: pathlib.Path) -> Arrays:
    """The arrays of an .npz by name; raises one of `UNREADABLE` if it is damaged."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
        arrays = dict(opened)
        noted = arrays.pop(_DIGEST, None)
        # Earlier versions noted no digest. NumPy reads no further than a header says, and so may
        # not meet the checksum at an array's end.
        whole = opened.zip.testzip() is None if noted is None else noted == _digest(arrays)
    if not whole:
        raise ValueError("it is not as it was written")
    return arrays


def write_arrays(path: pathlib.Path, arrays: Arrays) -> None:
    """Writes an .npz of arrays by name: it is whole or not there. Raises what the system says."""
    # An open file, for np.savez would add an ending to a name.
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{_DIGEST: np.array(_digest(arrays)), **arrays})


def _digest(arrays: Arrays) -> str:
    hashed = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hashed.update(f"{name} {np.asarray(array).dtype} {np.shape(array)}".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()
