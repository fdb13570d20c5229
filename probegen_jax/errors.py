"""Errors that are the user's to fix, and how an entry point shows them."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake in what was asked or given: the message says what, where and how to fix it.

    Entry points print the message as one line and exit with `EXIT_USER_ERROR`, without a
    stack trace.
    """


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs an entry point on `sys.argv`, turning a `UserError` into one line and exit code 2.

    Args:
      main: takes the full argument vector, program name first.

    `--debug`, which every entry point has, or `PROBEGEN_DEBUG=1` in the environment shows the stack
    trace as well.
    """
    debug = "--debug" in sys.argv or bool(os.environ.get("PROBEGEN_DEBUG"))
    argv = [argument for argument in sys.argv if argument != "--debug"]
    if not debug:
        # XLA's own log, of slow compilations above all; what fails is raised besides.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        main(argv)
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
