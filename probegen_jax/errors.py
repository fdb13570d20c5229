"""Errors that are the user's to fix, and how an entry point shows them."""

import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence

from probegen_jax import terminal, user_cache

EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again
EXIT_PEER_ENDED = 76
EXIT_INTERRUPTED = 130

_LESS = "ask for less at once, as with a lower batch_size or num_probes; what was saved stays"


class UserError(Exception):
    """A mistake in what was asked or given: the message says what, where and how to fix it.

    Entry points print the message as one line and exit with `EXIT_USER_ERROR`, without a
    stack trace.
    """


class BadNetworkError(UserError):
    """One network that cannot be used; with `skip_bad` the others still make a zoo."""

    def __init__(
        self,
        network: str,
        fault: str,
        remedy: str = "replace the file, or leave such networks out with --config.skip_bad=True",
    ):
        super().__init__(f"{network}: {fault}; {remedy}")
        self.network = network
        self.fault = fault


class UnknownNamesError(BadNetworkError):
    """A network whose arrays have other names than those of a family."""


class Stopped(BaseException):
    """Asked to stop by SIGTERM, with everything saved; like KeyboardInterrupt, not an error.

    Attributes:
      agreed: whether all processes of the job stop together.
    """

    def __init__(self, agreed: bool = False):
        super().__init__("stopped by SIGTERM")
        self.agreed = agreed


def in_file(
    error: BaseException, name: pathlib.Path | str, file: pathlib.Path, *others: pathlib.Path
) -> str | None:
    """A mistake in a Python file of the user's, with its line.

    Args:
      name: of the file, as the user gave it.
      file: whose code may have raised the error, as may files beside it.
      others: folders of more such files.

    Returns:
      None if the error came up elsewhere.
    """
    folders = {file.resolve().parent, *(folder.resolve() for folder in others)}
    seen: BaseException | None = error
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__)
        places = [(frame.filename, frame.lineno) for frame in frames]
        if isinstance(seen, SyntaxError):
            places.append((seen.filename, seen.lineno))
        for where, line in reversed(places):
            if where and pathlib.Path(where).resolve().parent in folders:
                shown = name if pathlib.Path(where).resolve() == file.resolve() else where
                what = seen.msg if isinstance(seen, SyntaxError) else " ".join(str(seen).split())
                return f"{shown}, line {line}: {type(seen).__name__}: {what:.300}"
        seen = seen.__cause__ or seen.__context__
    return None


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs an entry point on `sys.argv`, turning a `UserError` into one line and exit code 2.

    A `~` at the start of a flag's value stands for the home folder. What the terminal cannot show
    is replaced, and an output that is closed or full does not stop the work.
    """
    terminal.in_utf8()
    with terminal.ready(main, quiet=not _debugging()):
        _run(main, [terminal.expanded(each) for each in sys.argv if each != "--debug"])


def _run(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    if not _debugging():
        # XLA's own log, of slow compilations above all; what fails is raised besides.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    user_cache.keep_compiled()
    try:
        main(argv)
    except (UserError, Stopped, KeyboardInterrupt, OSError) as error:
        if isinstance(error, OSError) and not _of_a_file(error):
            raise
        sys.exit(report(error))
    except Exception as error:  # of jaxlib or NumPy, neither of which is imported here
        if not _of_memory(error):
            raise
        told = (str(error).strip() or "no more memory").splitlines()[0]
        sys.exit(report(UserError(f"out of memory ({told:.200}); {_LESS}")))
    except SystemExit as stop:  # of --help, or of a command with an exit code of its own
        if stop.code:
            raise
    if (error := terminal.lost()) is not None:
        print(f"error: the output cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def report(error: BaseException) -> int:
    """Tells what has ended a run, in one line where it is no bug."""
    known = isinstance(error, UserError | Stopped | KeyboardInterrupt) or _of_a_file(error)
    if not known or _debugging():
        traceback.print_exception(error)
    if isinstance(error, UserError):
        code, line = EXIT_USER_ERROR, f"error: {' '.join(str(error).splitlines())}"
    elif isinstance(error, Stopped):
        code, line = EXIT_STOPPED, "stopped by SIGTERM; the same command continues from here"
    elif isinstance(error, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
        line = "interrupted; the same command continues from the last checkpoint"
    elif isinstance(error, OSError) and known:
        code = EXIT_USER_ERROR
        line = (
            f"error: cannot read or write {error.filename} ({error.strerror}); look at its "
            "permissions, and at the space that is left"
        )
    else:
        return 1
    print(line, file=sys.stderr, flush=True)
    return code


def _of_a_file(error: BaseException) -> bool:
    """Whether it says what the system refused to do with a file: no bug, but a matter of rights."""
    return isinstance(error, OSError) and bool(error.filename and error.strerror)


def _of_memory(error: BaseException) -> bool:
    """Whether memory has run out, on the machine or a device."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _debugging() -> bool:
    return "--debug" in sys.argv or bool(os.environ.get("PROBEGEN_DEBUG"))
