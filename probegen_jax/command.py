"""Command lines without a config: files and folders, and a few flags."""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import flags

from probegen_jax.errors import UserError

# Settings that say where a run's zoo and checkpoints lie, which may have moved since the training.
PLACES = (
    *("data_dir", "zoo_dir", "manual_dir", "splits_file", "networks_dir", "targets_csv"),
    *("checkpoint_dir", "network", "architecture"),
)


def parse(
    argv: Sequence[str], doc: str, define: Callable[[flags.FlagValues], None] = lambda values: None
) -> tuple[flags.FlagValues, list[str]]:
    """Reads a command line of flags and names; flags may come before, between or after names.

    Raises:
      UserError: a flag that there is not, or a value that it cannot have.
    """
    if {"-h", "--help"} & set(argv[1:]):
        print(doc.strip())
        sys.exit(0)
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    define(values)
    try:
        names = values(argv)[1:]
    except flags.Error as error:
        raise UserError(f"command line: {error}; --help shows the usage") from error
    return values, names


def check_writable(out: pathlib.Path, example: str) -> None:
    """Refuses a file for `--out` that could not be written, before anything is computed.

    Args:
      out: of the file; its folder is made if missing.
      example: of a name, for the message.

    Raises:
      UserError: it is a folder, or its folder cannot be written.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; give a file, as in --out={example}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror}); choose another with --out=FILE"
        ) from error
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"cannot write into {out.parent}; choose another file with --out=FILE")


def define_places(values: flags.FlagValues) -> None:
    """Adds a flag for each setting that says where a run's zoo and checkpoints lie."""
    for name in PLACES:
        flags.DEFINE_string(name, None, "where it lies now", flag_values=values)


def places(values: flags.FlagValues) -> dict[str, str]:
    """What the flags of `define_places` say, as `experiment.load_run` takes it."""
    given = {name: values[name].value for name in PLACES}
    return {name: value for name, value in given.items() if value is not None}
