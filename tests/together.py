"""Two processes that come to the same work at once."""

import pathlib
import subprocess
import sys
import textwrap
import time

from conftest import REPO

_HOLD = """
import pathlib, sys, time
def hold():
    folder = pathlib.Path(sys.argv[1])
    (folder / "begun").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
"""


def run(code: str, folder: pathlib.Path, *args: object) -> tuple[list[str], list[str]]:
    """What two processes that run the code say, line by line: one that works, one that waits.

    The code is to call `hold()` in the midst of the work: the second process is then started, and
    the first one goes on once the second says that it waits.

    Args:
      folder: the code's first argument; the others are `args`.
    """
    command = [sys.executable, "-uc", _HOLD + textwrap.dedent(code), str(folder), *map(str, args)]
    options = {"cwd": REPO, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as first:
        while not (folder / "begun").exists():
            assert first.poll() is None
            time.sleep(0.01)
        with subprocess.Popen(command, **options) as second:
            told = []
            while not told or "waiting for another process" not in told[-1]:
                told.append(second.stdout.readline())
                assert told[-1], told
            (folder / "go").touch()
            texts = first.communicate()[0], "".join(told) + second.communicate()[0]
    assert (first.returncode, second.returncode) == (0, 0), texts
    return texts[0].splitlines(), texts[1].splitlines()
