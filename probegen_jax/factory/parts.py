"""Long builds that lose nothing: a plan, and part files that are whole or not there.

The folder of a build:
1. `plan.json` says what is built. Another plan for the same folder is refused.
2. `parts/part-NNNNN.npz` are written as they finish, to a temporary name and then renamed. Each
   follows from the plan and its number alone, so a killed build goes on at the first missing part
   and ends with the same bytes.
3. From the parts the data set is assembled, all of it or nothing; then the parts are removed.
"""

import pathlib
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from probegen_jax.errors import UserError
from probegen_jax.files import read_json, write_json
from probegen_jax.zoo import cache
from probegen_jax.zoo.cache import Arrays

_PLAN, _PARTS = "plan.json", "parts"
# Of the plan: what made the bytes besides the settings. A finished zoo is not refused for it.
_MADE_WITH = "made_with"
# Seconds between lines where there is no terminal for a bar.
_LINE_EVERY = 60.0


class Build:
    """A folder in which something is built, as a context: other processes wait until it ends."""

    def __init__(self, out: pathlib.Path, plan: Mapping[str, Any], made_with: Mapping[str, Any]):
        """A build that makes its folder, or goes on in it, once it is entered.

        Args:
          out: the folder.
          plan: JSON-like: the settings and whatever else decides the result.
          made_with: JSON-like: versions and hardware, which decide the last bits.
        """
        self.out = out
        self._parts = out / _PARTS
        self._plan = {**plan, _MADE_WITH: dict(made_with)}

    def __enter__(self) -> "Build":
        """Raises a `UserError` if the folder cannot be written or holds something else."""
        from probegen_jax.zoo.prepared import builders

        try:
            self.out.mkdir(parents=True, exist_ok=True)
            strangers = sorted(path.name for path in self.out.iterdir() if path.name[0] != ".")
            if strangers and not (self.out / _PLAN).exists():
                raise UserError(
                    f"{self.out} holds {strangers[0]!r} and no {_PLAN}, so it is not the folder of "
                    "a build; choose another with --out=DIR"
                )
            self._lock = builders.lock(self.out)
        except OSError as error:
            raise unwritable(self.out, error) from error
        try:
            self._refuse_another()
            for leftover in self._parts.glob(".*"):  # of a killed process
                leftover.unlink()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _refuse_another(self) -> None:
        if not (self.out / _PLAN).exists():
            return
        theirs, ours = read_json(self.out / _PLAN), self._plan
        if not isinstance(theirs, dict):
            raise UserError(f"{self.out / _PLAN} is damaged; delete {self.out} and run again")
        if not self._parts.exists():  # finished, or killed before its first part
            theirs, ours = ({**each, _MADE_WITH: None} for each in (theirs, ours))
        there, here = _flat(theirs), _flat(ours)
        differing = [
            f"{key} ({there.get(key, 'absent')} there, {here.get(key, 'absent')} here)"
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        ]
        if differing:
            raise UserError(
                f"{self.out} holds another zoo: {', '.join(differing)}; choose another folder with "
                "--out=DIR, or delete that one"
            )

    def run(
        self,
        sizes: Sequence[int],
        make: Callable[[int], Arrays],
        show: Callable[[Arrays], str] | None = None,
    ) -> int:
        """Makes the parts that are missing, with a bar of networks per second and time left.

        Args:
          sizes: networks in each part.
          make: arrays by name of part i. They follow from the plan and i alone.
          show: from a part that is finished, a word beside the bar.

        Returns:
          Networks that were made by this call.

        Raises:
          UserError: no space left.
        """
        try:
            self._parts.mkdir(exist_ok=True)
            write_json(self.out / _PLAN, self._plan)
        except OSError as error:
            raise unwritable(self.out, error) from error
        missing = [part for part in range(len(sizes)) if not self._path(part).exists()]
        total = sum(sizes)
        done = total - sum(sizes[part] for part in missing)
        if done:
            print(f"{self.out}: {done:,} of {total:,} networks are there; going on", flush=True)
        started = told = time.monotonic()
        before = done
        with tqdm(total=total, initial=done, desc="building", unit="net", disable=None) as bar:
            for part in missing:
                arrays = make(part)
                self._write(part, arrays)
                done += sizes[part]
                if show is not None:
                    bar.set_postfix_str(show(arrays), refresh=False)
                bar.update(sizes[part])
                now = time.monotonic()
                if bar.disable and now - told > _LINE_EVERY:
                    told, rate = now, (done - before) / (now - started)
                    print(
                        f"{done:,} of {total:,} networks, {rate:.1f} networks/s, "
                        f"{(total - done) / rate:.0f} s left",
                        flush=True,
                    )
        return done - before

    def read(self, part: int) -> Arrays:
        """The arrays of a finished part.

        Raises:
          UserError: the file is damaged.
        """
        path = self._path(part)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); delete it and run the same command again"
            ) from error

    def clean(self) -> None:
        """Removes the parts, once what was assembled from them is written."""
        # The rename makes it one step: a folder half removed would look unfinished.
        if self._parts.exists():
            rubbish = self._parts.with_name(f".{_PARTS}")
            shutil.rmtree(rubbish, ignore_errors=True)
            self._parts.rename(rubbish)
        shutil.rmtree(self._parts.with_name(f".{_PARTS}"), ignore_errors=True)

    def _path(self, part: int) -> pathlib.Path:
        return self._parts / f"part-{part:05}.npz"

    def _write(self, part: int, arrays: Arrays) -> None:
        path = self._path(part)
        try:
            cache.write_arrays(path, path.with_name(f".{path.name}"), arrays)
        except OSError as error:
            raise unwritable(path, error) from error


def unwritable(path: pathlib.Path, error: OSError) -> UserError:
    """What to tell of a file or folder of a build that cannot be written."""
    return UserError(
        f"cannot write {path} ({error.strerror or error}); free some space and run the same "
        "command again, it goes on where it stopped; or choose another folder with --out=DIR"
    )


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Leaves of nested dicts by dotted key, as text."""
    if not isinstance(value, Mapping):
        return {prefix: repr(list(value) if isinstance(value, tuple) else value)}
    flat = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
