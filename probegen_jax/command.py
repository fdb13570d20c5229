"""Command lines without a config: files and folders, and a few flags."""

import sys
from collections.abc import Callable, Sequence

from absl import flags

from probegen_jax.errors import UserError


def parse(
    argv: Sequence[str], doc: str, define: Callable[[flags.FlagValues], None] = lambda values: None
) -> tuple[flags.FlagValues, list[str]]:
    """Reads a command line of flags and names; flags may come before, between or after names.

    Args:
      argv: program name first.
      doc: the entry point's docstring, shown by `--help`.
      define: adds the entry point's flags.

    Returns:
      The flags, and the names.

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
