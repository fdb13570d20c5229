"""Long builds that lose nothing: a plan, and part files that are whole or not there.

The folder of a build:
1. `plan.json` says what is built. Another plan for the same folder is refused.
2. `parts/part-NNNNN.npz` are written as they finish, to a temporary name and then renamed. Each
   follows from the plan and its number alone, so a killed build goes on at the first missing part
   and ends with the same bytes.
3. From the parts the data set is assembled, all of it or nothing; then the parts are removed.
"""

import contextlib
import json
import pathlib
import shutil
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from tqdm import tqdm

from probegen_jax import locks, trees
from probegen_jax.errors import UserError
from probegen_jax.files import read_json, write_json
from probegen_jax.zoo import cache
from probegen_jax.zoo.cache import Arrays

_PLAN = "plan.json"
# Of the plan: what made the bytes besides the settings. A finished zoo is not refused for it.
_MADE_WITH = "made_with"
# What plans of earlier versions do not say.
_NEW = ("images.class_names",)
_LINE_EVERY = 60.0  # seconds, where there is no terminal for a bar
# Where the code lies that decides what a network becomes.
CODE = ("probegen_jax.factory", "probegen_jax.networks", "probegen_jax.zoo.flat_weights")


class Build:
    """A folder in which something is built, as a context: other processes wait until it ends."""

    def __init__(self, out: pathlib.Path, plan: Mapping[str, Any], made_with: Mapping[str, Any]):
        """A build that makes its folder, or goes on in it, once it is entered.

        Args:
          plan: JSON-like: the settings and whatever else decides the result.
          made_with: JSON-like: versions and hardware, which decide the last bits.
        """
        self.out = out
        self._parts = out / "parts"
        self._rubbish = out / ".parts"
        # As JSON gives it back: with lists for tuples.
        self._plan = json.loads(json.dumps({**plan, _MADE_WITH: made_with}))

    def __enter__(self) -> "Build":
        """Raises a `UserError` if the folder cannot be written or holds something else."""
        with contextlib.ExitStack() as held:
            with writing(self.out):
                self.out.mkdir(parents=True, exist_ok=True)
                strangers = sorted(path.name for path in self.out.iterdir() if path.name[0] != ".")
                if strangers and not (self.out / _PLAN).exists():
                    raise UserError(
                        f"{self.out} holds {strangers[0]!r} and no {_PLAN}, so it is not the "
                        "folder of a build; choose another with --out=DIR"
                    )
                lock = locks.lock(self.out / ".lock", f"builds in {self.out}", keep=True)
                held.enter_context(lock)
            self._refuse_another()
            for leftover in (*self.out.glob(f".{_PLAN}.*"), *self._parts.glob(".*")):
                leftover.unlink()  # of a killed process
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _refuse_another(self) -> None:
        if not (self.out / _PLAN).exists():
            return
        theirs, ours = read_json(self.out / _PLAN), self._plan
        if not isinstance(theirs, dict):
            raise UserError(f"{self.out / _PLAN} is damaged; delete {self.out} and run again")
        differing = _differences(theirs, ours)
        asked = [text for key, text in differing.items() if not key.startswith(f"{_MADE_WITH}.")]
        if asked:
            raise UserError(
                f"{self.out} holds another zoo: {', '.join(asked)}; choose another folder with "
                "--out=DIR, or delete that one"
            )
        if differing and self._parts.exists():  # else finished, or killed before its first part
            raise UserError(
                f"{self.out} is half built, by other code or on another machine: "
                f"{', '.join(differing.values())}; finish it as it was begun, or delete {self.out} "
                "and run the same command again"
            )

    def run(
        self,
        sizes: Sequence[int],
        make: Callable[[int], Arrays],
        show: Callable[[Arrays], str] | None = None,
    ) -> int:
        """Makes the missing parts, with a bar of speed and time left; returns how many networks.

        Args:
          make: arrays by name of part i. They follow from the plan and i alone.

        Raises:
          UserError: no space left.
        """
        with writing(self.out):
            self._parts.mkdir(exist_ok=True)
            write_json(self.out / _PLAN, self._plan)
        missing = [part for part in range(len(sizes)) if not self._path(part).exists()]
        total = sum(sizes)
        before = done = total - sum(sizes[part] for part in missing)
        if done:
            print(f"{self.out}: {done:,} of {total:,} networks are there; going on", flush=True)
        started = told = time.monotonic()
        with tqdm(total=total, initial=done, desc="building", unit="net", disable=None) as bar:
            for part in missing:
                arrays = make(part)
                with writing(self._path(part)):
                    cache.write_arrays(self._path(part), arrays)
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
            return cache.read_arrays(path)
        except cache.UNREADABLE as error:
            raise UserError(
                f"{path}: cannot be read ({error}); delete it and run the same command again"
            ) from error

    def clean(self) -> None:
        """Removes the parts, once what was assembled from them is written."""
        from probegen_jax.zoo.prepared import build_folder

        build_folder.clean(self.out)
        # The rename makes it one step: a folder half removed would look unfinished.
        shutil.rmtree(self._rubbish, ignore_errors=True)
        if self._parts.exists():
            self._parts.rename(self._rubbish)
        shutil.rmtree(self._rubbish, ignore_errors=True)

    def _path(self, part: int) -> pathlib.Path:
        return self._parts / f"part-{part:05}.npz"


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Tells of a file or folder of a build that cannot be written, as a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}); free some space and run the same "
            "command again, it goes on where it stopped; or choose another folder with --out=DIR"
        ) from error


def made_with(module: types.ModuleType, **others: Any) -> dict[str, Any]:
    """What makes the bytes of a build besides its settings, for `Build`."""
    device = jax.devices()[0].device_kind
    return {"jax": jax.__version__, "device": device, **others, "code": code_hash(module)}


def code_hash(module: types.ModuleType) -> str:
    """Hash of a module that trains networks, and of all code that decides what they become."""
    return cache.source_hash(module, CODE)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, str]:
    """A message for each key, by its dotted name, at which two plans differ."""
    there, here = (trees.named(plan, whole=(list, type(None))) for plan in (theirs, ours))
    texts = {}
    for key in sorted(there.keys() | here.keys()):
        if key in _NEW and key not in there:
            continue
        values = [repr(plan[key]) if key in plan else "absent" for plan in (there, here)]
        if values[0] != values[1]:
            # The beginning of a hash is enough.
            short = [value if len(value) < 60 else f"{value[:12]}…" for value in values]
            texts[key] = "{} ({} there, {} here)".format(key, *short)
    return texts
