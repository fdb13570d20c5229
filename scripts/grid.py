"""Many trainings, each a process of its own. What is done is skipped; a failure stops no other."""

import concurrent.futures
import datetime
import fcntl
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO)]

from probegen_jax import cpu_devices, errors, settings
from probegen_jax.errors import UserError
from probegen_jax.runs import records
from probegen_jax.runs.folder import refuse_other

# `python -m probegen_jax.train` that gets SIGTERM once its parent is gone, however that went
# (PR_SET_PDEATHSIG is 1). Set by the run itself: code between fork and exec is not safe here.
_TRAIN_WITH_PARENT = """
import ctypes, runpy, signal
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
runpy.run_module("probegen_jax.train", run_name="__main__", alter_sys=True)
"""


class Run:
    """One training: its name, its folder, and what `train` is called with."""

    name: str
    folder: pathlib.Path
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", "probegen_jax.train", *self.arguments])

    def config(self) -> dict[str, Any]:
        """Its settings; a `UserError` if they cannot be."""
        own = [argument for argument in self.arguments if not argument.startswith("--workdir")]
        return settings.parse(["train", *own], "").config.to_dict()

    def result(self) -> dict[str, Any] | None:
        """Its `result.json`; None if it is not finished."""
        return records.read_result(self.folder)

    def made(self) -> dict[str, str]:
        """The day and the device of a finished run; nothing of another."""
        result = self.result()
        if result is None:
            return {}
        seconds = (self.folder / "result.json").stat().st_mtime
        day = datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()
        return {
            "date": day.isoformat(),
            "device": (result.get("environment") or {}).get("device", ""),
        }


def print_missing(runs: Sequence[Run]) -> int:
    """Prints a command a line of the runs that are not finished; the exit code."""
    for run in runs:
        if run.result() is None:
            print(run.command)
    return 0


def train(
    runs: Sequence[Run],
    out: pathlib.Path,
    write: Callable[[dict[str, str]], str],
    at_once: int = 1,
) -> int:
    """Trains what is missing, in the order given, and prints the table of all.

    Args:
      out: the folder of the grid. Another process that works there is waited for.
      write: is called after every run, with what went wrong of which so far; gives the table.
      at_once: trainings that run at the same time.

    Returns:
      The exit code: 1 if a run failed.
    """
    configs = {run.name: run.config() for run in runs}
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}); choose another --out") from error
    failures: dict[str, str] = {}
    table = ""
    with lock:
        _wait_for(lock, out)
        for run, failure in _each(runs, configs, lock.fileno(), at_once):
            if failure is not None:
                failures[run.name] = failure
            table = write(failures)
    print(table)
    for name, failure in failures.items():
        print(f"{name} {failure}", file=sys.stderr)
    return 1 if failures else 0


def _each(runs: Sequence[Run], configs: dict[str, Any], lock: int, at_once: int) -> Any:
    """Runs as they end, with what went wrong."""

    def trained(place: int) -> tuple[Run, str | None]:
        run = runs[place]
        print(f"[{place + 1}/{len(runs)}] {run.name}", flush=True)
        return run, _train(run, configs[run.name], lock, at_once)

    if at_once == 1:
        yield from map(trained, range(len(runs)))
        return
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        try:
            waiting = [pool.submit(trained, place) for place in range(len(runs))]
            for each in concurrent.futures.as_completed(waiting):
                yield each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _wait_for(lock: Any, out: pathlib.Path) -> None:
    """Until no other process works in the folder: not a killed one's last run either."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print(f"another process works in {out}; waiting for it to end", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _train(run: Run, config: dict[str, Any], lock: int, at_once: int) -> str | None:
    """Trains it, goes on with it, or leaves it if it is done; says what went wrong, if anything.

    Where several run at once, each takes its share of the cores, and of a GPU what memory it needs.
    """
    try:
        if run.result() is not None:
            refuse_other(run.folder, records.read_config(run.folder), config)
            return None
    except UserError as error:
        return f"failed: {error}"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    }
    if at_once > 1:
        threads = max(1, cpu_devices.cores() // at_once)
        environment.setdefault(cpu_devices.THREADS, str(threads))
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    start = ["-c", _TRAIN_WITH_PARENT] if sys.platform == "linux" else ["-m", "probegen_jax.train"]
    # The lock stays taken while the run lives.
    process = subprocess.Popen(
        [sys.executable, *start, *run.arguments], env=environment, pass_fds=(lock,)
    )
    code = process.wait()
    if code in (errors.EXIT_INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if code == 0:
        return None
    return f"failed with exit code {code}; its message is above, and its folder {run.folder}"
