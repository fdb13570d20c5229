"""Config files: which one a command line names, how it is run, what went wrong in it."""

import contextlib
import pathlib
import re
import sys
import types
from collections.abc import Iterator, Sequence

from absl import flags

from probegen_jax.errors import UserError


def config_name(argv: Sequence[str]) -> str:
    """Name of the config file without its ending: names the run folder."""
    return config_path(argv).stem


def config_path(argv: Sequence[str]) -> pathlib.Path:
    """The config file that a command line names, as it is named there.

    `configs/NAME.py` means the shipped one if the current folder has no such file.

    Raises:
      UserError: no config is named, or there is no such file.
    """
    value = config_argument(argv)[1]
    if not value:
        raise UserError("no config given; say which with --config=configs/digits.py")
    path = pathlib.Path(value.split(":")[0])
    if not config_file(path).is_file():
        names = sorted(
            file.name for file in shipped_configs().glob("*.py") if file.stem != "common"
        )
        raise UserError(
            f"no config file at {path}; give the path of one, or a shipped one: "
            + ", ".join(f"configs/{name}" for name in names)
        )
    return path


def config_argument(argv: Sequence[str]) -> tuple[int, str]:
    """Where the last value of `--config` stands in a command line, and that value, maybe empty."""
    found = 0, ""
    for place, argument in enumerate(argv[1:], 1):
        name, equals, given = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            following = "" if place + 1 == len(argv) else argv[place + 1]
            found = (place, given) if equals else (place + 1, following)
    return found


def config_file(path: pathlib.Path) -> pathlib.Path:
    """The file that a config's path means: the one there, or else a shipped one of that name."""
    shipped = path.parent == pathlib.Path("configs") and not path.exists()
    return shipped_configs() / path.name if shipped else path


def shipped_configs() -> pathlib.Path:
    """The folder of the shipped configs: in an installed package, or beside a checkout's."""
    inside = pathlib.Path(__file__).resolve().with_name("configs")
    return inside if inside.is_dir() else inside.parent.with_name("configs")


@contextlib.contextmanager
def configs_to_import(file: pathlib.Path) -> Iterator[None]:
    """Lets a config file say `from configs import common`, whatever else is called `configs` here.

    What it imports so is looked for beside it, then among the shipped configs.
    """

    def loaded() -> dict[str, types.ModuleType]:
        return {n: sys.modules.pop(n) for n in [*sys.modules] if n.split(".")[0] == "configs"}

    others = loaded()
    sys.modules.pop("config_config", None)  # what config_flags calls the file it read before
    sys.modules["configs"] = types.ModuleType("configs")
    sys.modules["configs"].__path__ = [str(file.resolve().parent), str(shipped_configs())]
    try:
        yield
    finally:
        loaded()
        sys.modules.update(others)


def what_went_wrong(error: Exception, path: pathlib.Path) -> str:
    """One line, without the stack trace that config_flags puts into its messages."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, AttributeError) and error.name == "get_config":
        return f"{path} has no function get_config()"
    if isinstance(error, AttributeError | KeyError) and error.args:  # how ConfigDict refuses a key
        key = re.search(r'Key "(\w+)"|(\w+)', lines[0])
        meant = re.search(r'Did you mean "(\w+)"', str(error))
        return f"unknown config key {key and (key[1] or key[2])!r}" + (
            f", meaning {meant[1]!r}?" if meant else ""
        )
    if any("Traceback" in line for line in lines):
        return f"{path}: {lines[-1]}"
    if isinstance(error, flags.Error):
        return f"command line: {' '.join(lines)}"
    return f"{path}: {type(error).__name__}: {' '.join(lines)}"
