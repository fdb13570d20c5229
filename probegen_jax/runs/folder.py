"""The folder of a run: what it is, and whether this command may go on in it."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from probegen_jax import locks, settings
from probegen_jax.errors import UserError
from probegen_jax.files import clear, read_json

ZOO, METRICS, BOARD = "zoo.json", "metrics.jsonl", "tensorboard"
# Where things lie, on how many devices, and what is shown, may change between a run and its
# continuation; what is computed may not.
_PLACES = (
    "data_dir",
    "zoo_dir",
    "manual_dir",
    "splits_file",
    "download_url",
    "networks_dir",
    "targets_csv",
    "mesh",
    "data",
    "checkpoint_dir",
    "keep_checkpoints",
    "report",
    "tensorboard",
)


# What the lack of a key means, in runs that were made before there was one.
_WHEN_ABSENT = {"readout": "outputs"}


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
        config_file, result_file = folder / "config.json", folder / "result.json"
        if config_file.exists():
            refuse_other(folder, read_json(config_file), config)
            return read_json(result_file) if result_file.exists() else None
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
    try:
        last = (folder / METRICS).read_text(encoding="utf-8").splitlines()[-1]
        whole = json.loads(last)["step"] == result["steps"]
    except (OSError, ValueError, LookupError, TypeError):
        whole = False
    if not whole:
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


def computed(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what is computed, as JSON gives them back.

    Those that are None are left out, for earlier versions did not have them all.
    """
    kept = {k: v for k, v in (_WHEN_ABSENT | config).items() if k not in _PLACES and v is not None}
    kept["standardize"] = settings.standardizes(config)  # not so in runs from before it was a key
    return json.loads(json.dumps(kept))


def refuse_other(folder: pathlib.Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises a `UserError` that names the keys in which the config `theirs`, of `folder`, differs.

    Keys that do not decide what is computed do not count.
    """
    theirs, ours, missing = computed(theirs), computed(ours), object()
    differing = [
        f"{key} ({_shown(theirs.get(key, missing), missing)} there, "
        f"{_shown(ours.get(key, missing), missing)} here)"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key, missing) != ours.get(key, missing)
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run of another config: {', '.join(differing)}; "
            "choose another folder with --workdir=DIR"
        )


def zoo_facts(folder: pathlib.Path) -> dict[str, Any]:
    """What is known of the zoo that the run in a folder is trained on; nothing of older runs."""
    path = folder / ZOO
    return read_json(path) if path.exists() else {}


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
    return "absent" if value is missing else repr(value)
