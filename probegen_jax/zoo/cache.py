"""A file cache for arrays that are long to compute and fully determined by a key."""

import hashlib
import json
import os
import pathlib
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from probegen_jax.errors import UserError

Arrays = dict[str, np.ndarray]


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


def source_hash(*modules: Any) -> str:
    """Hash of the source text of modules, so that a change of code changes the key."""
    text = b"".join(pathlib.Path(module.__file__).read_bytes() for module in modules)
    return hashlib.sha256(text).hexdigest()


def cached_arrays(
    folder: pathlib.Path, name: str, key: Mapping[str, Any], build: Callable[[], Arrays]
) -> Arrays:
    """The arrays of `build()`, read from `folder` where an earlier run left them.

    Args:
      folder: of the cache; made if missing.
      name: start of the file's name.
      key: everything that decides the arrays. A change of it means another file.
      build: computes the arrays, by name.

    Returns:
      The arrays, by name.

    Raises:
      UserError: the folder cannot be written. A file that cannot be read is rebuilt with a warning.
    """
    path = folder / f"{name}-{digest(key)}.npz"
    make_folder(folder)
    if path.exists():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            warnings.warn(
                f"cache file {path} is corrupt ({error}); building it again", stacklevel=2
            )
    arrays = build()
    try:
        write_arrays(path, path.with_name(f".{path.name}.{os.getpid()}"), arrays)
    except OSError as error:
        raise UserError(
            f"cannot write the cache file {path} ({error.strerror}); free some space, or choose "
            "another folder with --config.data_dir=DIR"
        ) from error
    return arrays


def write_arrays(path: pathlib.Path, temporary: pathlib.Path, arrays: Arrays) -> None:
    """Writes an .npz under a temporary name, then renames it: the file is whole or not there.

    Args:
      path: of the file.
      temporary: the name until then, in the same folder; gone if the file cannot be written.
      arrays: by name.

    Raises:
      OSError: what the system says.
    """
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
