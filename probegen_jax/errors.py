"""Errors that are the user's to fix, and how an entry point shows them."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from probegen_jax import user_cache

EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again
EXIT_PEER_ENDED = 76
EXIT_INTERRUPTED = 130


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


class Stopped(BaseException):
    """Asked to stop by SIGTERM, with everything saved; like KeyboardInterrupt, not an error.

    Attributes:
      agreed: whether all processes of the job stop together.
    """

    def __init__(self, agreed: bool = False):
        super().__init__("stopped by SIGTERM")
        self.agreed = agreed


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs an entry point on `sys.argv`, turning a `UserError` into one line and exit code 2."""
    argv = [argument for argument in sys.argv if argument != "--debug"]
    if not _debugging():
        # XLA's own log, of slow compilations above all; what fails is raised besides.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    user_cache.keep_compiled()
    try:
        main(argv)
    except (UserError, Stopped, KeyboardInterrupt) as error:
        sys.exit(report(error))


def report(error: BaseException) -> int:
    """Tells what has ended a run, in one line where it is no bug."""
    known = isinstance(error, UserError | Stopped | KeyboardInterrupt)
    if not known or _debugging():
        traceback.print_exception(error)
    if isinstance(error, UserError):
        code, line = EXIT_USER_ERROR, f"error: {' '.join(str(error).splitlines())}"
    elif isinstance(error, Stopped):
        code, line = EXIT_STOPPED, "stopped by SIGTERM; the same command continues from here"
    elif isinstance(error, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
        line = "interrupted; the same command continues from the last checkpoint"
    else:
        return 1
    print(line, file=sys.stderr, flush=True)
    return code


def _debugging() -> bool:
    return "--debug" in sys.argv or bool(os.environ.get("PROBEGEN_DEBUG"))
