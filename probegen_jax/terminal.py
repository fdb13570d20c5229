"""What the terminal can show: every entry point prints through here, and no print stops its work.

Imports nothing heavy: it comes before all else.
"""

import ast
import codecs
import contextlib
import errno
import io
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

# What stands for characters that an output cannot show; any other becomes a question mark.
_PLAIN = str.maketrans(
    {"±": "+/-", "τ": "tau", "×": "x", "→": "->", "…": "...", "–": "-", "−": "-", "·": "*",
     "█": "#", "∞": "inf", "√": "sqrt", "²": "^2", "³": "^3", "•": "*", "’": "'"}
)  # fmt: skip


class Output:
    """A stream that is written as long as it can be, and then lets the work go on.

    Attributes:
      lost: what ended it: a pipe that is closed, a disk that is full.
    """

    def __init__(self, stream: io.TextIOWrapper):
        self._stream = stream
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[..., object], *arguments: str) -> None:
        if self.lost is not None:
            return
        try:
            act(*arguments)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.lost = error if isinstance(error, OSError) else OSError(errno.EPIPE, str(error))
            # What the stream still holds would fail again when Python ends.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(c if c.isascii() else "?" for c in text), error.end


@contextlib.contextmanager
def ready(main: Callable[[Sequence[str]], None], quiet: bool = True) -> Iterator[None]:
    """Makes the process's output safe to print to, and finds the usage where Python dropped it.

    With `quiet`, libraries' warnings, which no user can act on, stay off the screen.
    """
    codecs.register_error("probegen_jax", _stand_in)
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in before.items():
        if stream is None:  # closed by who started us
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as we are
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="probegen_jax")
            setattr(sys, name, Output(stream))
    scope = getattr(main, "__globals__", {})
    if scope.get("__doc__") is None and scope.get("__file__"):  # python -OO
        text = pathlib.Path(scope["__file__"]).read_text(encoding="utf-8")
        scope["__doc__"] = ast.get_docstring(ast.parse(text), clean=False)
    try:
        with warnings.catch_warnings():
            if quiet and not sys.warnoptions:
                warnings.filterwarnings("ignore")
                warnings.filterwarnings("default", module="probegen_jax")
                logging.getLogger("matplotlib").setLevel(logging.ERROR)
            yield
    finally:
        for name, stream in before.items():
            if isinstance(getattr(sys, name), Output):
                getattr(sys, name).flush()
                setattr(sys, name, stream)


def lost() -> OSError | None:
    """Why standard output could not be written to its end; None if it was, or nobody listens."""
    out = sys.stdout
    if not isinstance(out, Output):
        return None
    out.flush()
    return None if out.lost is None or out.lost.errno == errno.EPIPE else out.lost


def in_utf8() -> None:
    """Starts the same command again in UTF-8 where file names would be limited to another charset.

    Libraries below take names as UTF-8 only. What is printed stays in the terminal's own charset.
    """
    known = sys.getfilesystemencoding().lower().replace("-", "") == "utf8"
    if known or os.environ.get("PYTHONUTF8") == "1":
        return
    charset = getattr(sys.stdout, "encoding", None) or "ascii"
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", charset)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def expanded(argument: str) -> str:
    """A command line's argument with `~` for the home folder, which shells leave alone behind =."""
    flag = re.match("(-[^=]*=)?", argument)[0]
    return flag + os.path.expanduser(argument[len(flag) :])
