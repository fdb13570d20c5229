"""The folder of a run: what it is, and whether this command may go on in it."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from probegen_jax import locks, settings
from probegen_jax.command import PLACES
from probegen_jax.errors import UserError
from probegen_jax.files import clear
from probegen_jax.method.generators.registry import of_other_methods
from probegen_jax.runs import records
from probegen_jax.runs.records import METRICS, ZOO

BOARD = "tensorboard"
# Where things lie, on how many devices, and what is shown, may change between a run and its
# continuation; what is computed may not.
_FREE = (
    *PLACES,
    "download_url",
    "mesh",
    "data",
    "keep_checkpoints",
    "report",
    "tensorboard",
)


@contextlib.contextmanager
def held(folder: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    """Has a run's folder and that of its checkpoints to itself; the run's is made.

    What processes that were killed have left half made in them is removed.

    Raises:
      UserError: another process has one of them; or the folder cannot be written.
    """
    from probegen_jax.training import checkpoints  # seconds, for Orbax

    remedy = "wait until it has ended, or choose another folder with --workdir=DIR"
    saved = checkpoints.local_folder(folder, config.get("checkpoint_dir"))
    with contextlib.ExitStack() as both:
        with _writing(folder):
            task = f"trains in {folder}"
            both.enter_context(locks.lock(folder / ".lock", task, remedy=remedy))
        if config.get("checkpoint_dir") and saved is not None:
            lock = saved / ".checkpoints.lock"
            with contextlib.suppress(OSError):  # told once there is something to write
                task = f"keeps the checkpoints of a run in {saved}"
                both.enter_context(locks.lock(lock, task, remedy=remedy))
        with _writing(folder):
            (folder / ".writable").unlink(missing_ok=True)  # of earlier versions
            for place in (folder, folder / "pictures"):
                clear(place)
            if saved is not None:
                checkpoints.clear(saved, settings.nested(config, "keep_checkpoints", 2))
        yield


def look_at(folder: pathlib.Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Looks at the run that is in a folder, if there is one; writes nothing.

    `config.json` itself is written once training can start, so that a mistake found before then
    leaves a folder that the corrected command can use.

    Returns:
      The result of a finished run; None for a new or unfinished one.

    Raises:
      UserError: the folder cannot be read, holds something else, or a run of another config.
    """
    with _writing(folder):
        if not folder.exists():
            return None
        if (folder / records.CONFIG).exists():
            refuse_other(folder, records.read_config(folder), config)
            return records.read_result(folder)
        # Of a start that came to nothing, or of a lost disk.
        ours = ("logs", "checkpoints", "tuning.json", ZOO)
        strangers = [
            entry.name
            for entry in folder.iterdir()
            if entry.name[0] != "." and entry.name not in ours
        ]
        if strangers:
            raise UserError(
                f"{folder} is not a run folder: it holds {strangers[0]!r} and no config.json; "
                "choose another with --workdir=DIR"
            )
        return None


def missing(folder: pathlib.Path, config: ConfigDict, result: Mapping[str, Any]) -> list[str]:
    """What a finished run's config promises and the folder lacks, the report aside."""
    found = []
    if not records.reach(folder, result["steps"]):
        found.append(METRICS)
    if config.get("tensorboard") and not any((folder / BOARD).glob("events.*")):
        found.append(BOARD)
    return found


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    """Tells of a folder that the system refuses."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder} ({error.strerror}); "
            "choose another with --workdir=DIR"
        ) from error


def computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what is computed, as JSON gives them back.

    A key that a run lacks, being of before there was one, has its default. Those that are None,
    as by default, are left out, for earlier versions did not have them all, and those of other
    methods.
    """
    usual = settings.defaults("").to_dict()
    whole = usual | dict(config)
    free = {*_FREE, *of_other_methods(config.get("method", ""))}
    kept = {
        key: value
        for key, value in whole.items()
        if key not in free and (value is not None or usual.get(key) is not None)
    }
    if "init_from" in kept:  # a run that may have moved since
        kept["init_from"] = os.path.basename(os.path.abspath(kept["init_from"]))
    if kept.get("matmul_precision") == "auto":  # which is "highest" or no worse
        kept["matmul_precision"] = "highest"
    kept["standardize"] = settings.standardizes(config)  # not so in runs from before it was a key
    return json.loads(json.dumps(kept))


def refuse_other(folder: pathlib.Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raises a `UserError` that names the keys in which the config `theirs`, of `folder`, differs.

    Keys that do not decide what is computed do not count.
    """
    if differing := differences(theirs, ours):
        raise UserError(
            f"{folder} holds a run of another config: {', '.join(differing)}; "
            "choose another folder with --workdir=DIR"
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """In what two configs differ that decides what is computed, with both values."""
    theirs, ours, missing = computed(theirs), computed(ours), object()
    return [
        f"{key:.80} ({_shown(theirs.get(key, missing), missing)} there, "
        f"{_shown(ours.get(key, missing), missing)} here)"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key, missing) != ours.get(key, missing)
    ]


def refuse_changed_config(folder: pathlib.Path, began: Any, now: Mapping[str, Any]) -> None:
    """Raises a `UserError` if a folder's config is not the one that its checkpoint `began` with."""
    if isinstance(began, dict) and (differing := differences(began, now)):
        raise UserError(
            f"{folder / records.CONFIG} is not what the run was trained with: "
            f"{', '.join(differing)}; put back a copy of it, or delete {folder} and train again"
        )


def refuse_code(folder: pathlib.Path, network: str | None, places: Mapping[str, str]) -> None:
    """Raises a `UserError` if a run's settings name a file to be run, and its user does not."""
    if network and "network" not in places:
        raise UserError(
            f"{folder} was trained on networks of {network}, which is a program; if you trust "
            f"it, say so with --network={network}"
        )


def refuse_missing(
    folder: pathlib.Path, config: Mapping[str, Any], needs_data_dir: bool = False
) -> None:
    """Refuses a run whose zoo is not where it was, naming the flags that say where it is now.

    Args:
      needs_data_dir: whether a zoo in `data_dir` cannot just be made there again.
    """
    needed = ["zoo_dir", "manual_dir", "splits_file", "networks_dir", "targets_csv", "architecture"]
    if needs_data_dir and not (config.get("zoo_dir") or config.get("manual_dir")):
        needed.append("data_dir")
    given = {key: config[key] for key in needed if config.get(key)}
    missing = {k: v for k, v in given.items() if not os.path.exists(os.path.expanduser(v))}
    if missing:
        raise UserError(
            f"{folder} was trained with {', '.join(f'{k}={v}' for k, v in missing.items())}, "
            "which there is not here; say where it lies now with "
            f"{' '.join(f'--{key}=PATH' for key in missing)}"
        )


def with_absolute_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose paths can be followed from any folder."""

    def absolute(path: str) -> str:
        return path if "://" in path else os.path.abspath(os.path.expanduser(path))

    return {k: absolute(v) if k in PLACES and v else v for k, v in config.items()}


def refuse_other_zoo(
    folder: pathlib.Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
    """Raises a `UserError` that says in what the zoo of the run in `folder` differs from ours.

    Args:
      ours: facts of the zoo that it is to be used with, see `zoo_facts.facts`.
    """
    differing = [
        f"{name} ({theirs[name]} there, {ours[name]} here)"
        for name in sorted(theirs.keys() & ours.keys())
        if theirs[name] != ours[name]
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run on another zoo: {', '.join(differing)}; use the zoo of that "
            "run, or choose another folder with --workdir=DIR"
        )


def _shown(value: Any, missing: object) -> str:
    return "absent" if value is missing else f"{value!r:.80}"
