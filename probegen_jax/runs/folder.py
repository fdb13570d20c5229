"""The folder of a run: what it is, and whether this command may go on in it."""

import pathlib
from typing import Any

from probegen_jax.errors import UserError
from probegen_jax.files import read_json, write_json

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


def open_run(folder: pathlib.Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Makes the folder, or looks at the run that is in it.

    `config.json` itself is written once training can start, so that a mistake found before then
    leaves a folder that the corrected command can use.

    Args:
      folder: of the run.
      config: of this command, as plain values.

    Returns:
      The result of a finished run, None of one that is yet to be trained or goes on.

    Raises:
      UserError: the folder cannot be written, holds something else, or a run of another config.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config_file, result_file = folder / "config.json", folder / "result.json"
        if config_file.exists():
            refuse_other(folder, read_json(config_file), config)
        else:
            # Of a start that came to nothing, or of a lost disk.
            ours = ("logs", "checkpoints", "tuning.json")
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
            write_json(folder / ".writable", True)
            (folder / ".writable").unlink()
        return read_json(result_file) if result_file.exists() else None
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder} ({error.strerror}); "
            "choose another with --workdir=DIR"
        ) from error


def computed(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what is computed."""
    return {key: value for key, value in config.items() if key not in _PLACES}


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


def _shown(value: Any, missing: object) -> str:
    return "absent" if value is missing else repr(value)
