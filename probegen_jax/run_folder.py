"""The folder of a run: what it is, and whether this command may go on in it."""

import pathlib
from typing import Any

from probegen_jax.errors import UserError
from probegen_jax.writers import read_json, write_json

# Where things lie on this machine, and what is shown, may change between a run and its
# continuation; what is computed may not.
_PLACES = (
    "data_dir",
    "zoo_dir",
    "manual_dir",
    "splits_file",
    "download_url",
    "networks_dir",
    "targets_csv",
)
_SHOWN = ("report", "tensorboard")


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
            strangers = [entry.name for entry in folder.iterdir() if entry.name[0] != "."]
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


def refuse_other(folder: pathlib.Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises a `UserError` that names the keys in which the config `theirs`, of `folder`, differs.

    Keys that say where things lie do not count.
    """
    missing = object()
    differing = [
        f"{key} ({_shown(theirs.get(key, missing), missing)} there, "
        f"{_shown(ours.get(key, missing), missing)} here)"
        for key in sorted(theirs.keys() | ours.keys())
        if key not in _PLACES + _SHOWN and theirs.get(key, missing) != ours.get(key, missing)
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run of another config: {', '.join(differing)}; "
            "choose another folder with --workdir=DIR"
        )


def _shown(value: Any, missing: object) -> str:
    return "absent" if value is missing else repr(value)
