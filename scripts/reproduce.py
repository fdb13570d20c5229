"""The reproduction grid: every zoo × {ProbeGen, vanilla, synthetic} × {64, 128} probes, 24 runs.

    python scripts/reproduce.py --out=runs/grid
    python scripts/reproduce.py --out=runs/grid --only=mnist,fmnist,probegen,64 --num_seeds=3
    python scripts/reproduce.py --out=runs/grid --mnist.zoo_dir=zoos/mnist --config.num_epochs=10
    python scripts/reproduce.py --out=runs/grid --dry_run        a command a line, to be scheduled

  --out=DIR               a run folder for each run, results.md, results.csv and results.png
  --only=NAME,…           zoos (mnist, fmnist, cifar10_gs, cifar10_wild_park; only when named also
                          digits, digits_cnn, digits_subsets), methods (probegen, vanilla,
                          synthetic: uniform coordinates or dead leaves), numbers of probes; those
                          of a kind add up
  --num_seeds=N           seeds of every run; 5 if not given
  --config.KEY=VALUE      a setting of every run
  --ZOO.KEY=VALUE         a setting of one zoo's runs, as in --mnist.zoo_dir=DIR
  --dry_run               prints the commands of runs that are missing, and runs nothing

Runs what is missing and skips what is done: killed and started again, it ends with the same table.
A run that fails does not stop the others. Exit codes: 0 all done; 1 a run failed; 2 a mistake in
the command; 130 interrupted.
"""

import dataclasses
import datetime
import fcntl
import itertools
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

import results_table
from absl import flags

from probegen_jax import command, errors, settings
from probegen_jax.errors import UserError
from probegen_jax.files import write_text
from probegen_jax.method.generators import registry
from probegen_jax.runs import records
from probegen_jax.runs.folder import refuse_other

# The synthetic probes of each zoo, by config file; the first four are the paper's.
ZOOS = {
    "mnist": "uniform",
    "fmnist": "uniform",
    "cifar10_gs": "dead_leaves",
    "cifar10_wild_park": "dead_leaves",
    "digits": "uniform",
    "digits_cnn": "dead_leaves",
    "digits_subsets": "dead_leaves",
}
PAPER = tuple(ZOOS)[:4]
METHODS = ("probegen", "vanilla", "synthetic")
PROBES = (64, 128)
_OVERRIDE = re.compile(rf"--(config|{'|'.join(ZOOS)})\.(\w+(?:\.\w+)*=.*)", re.DOTALL)

# `python -m probegen_jax.train` that gets SIGTERM once its parent is gone, however that went
# (PR_SET_PDEATHSIG is 1). Set by the run itself: code between fork and exec is not safe here.
_TRAIN_WITH_PARENT = """
import ctypes, runpy, signal
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
runpy.run_module("probegen_jax.train", run_name="__main__", alter_sys=True)
"""


@dataclasses.dataclass(frozen=True)
class GridRun:
    """One run of the grid: its name, its folder, and what `train` is called with."""

    zoo: str
    method: str
    num_probes: int
    folder: pathlib.Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.zoo}-{self.method}-{self.num_probes}"

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", "probegen_jax.train", *self.arguments])

    def config(self) -> dict[str, Any]:
        """Its settings; a `UserError` if they cannot be."""
        own = [argument for argument in self.arguments if not argument.startswith("--workdir")]
        return settings.parse(["train", *own], "").config.to_dict()

    def result(self) -> dict[str, Any] | None:
        return records.read_result(self.folder)


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    overrides = [match for match in map(_OVERRIDE.fullmatch, argv[1:]) if match]
    rest = [argument for argument in argv if not _OVERRIDE.fullmatch(argument)]

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("out", None, "folder", flag_values=values)
        flags.DEFINE_list("only", [], "selection", flag_values=values)
        flags.DEFINE_integer("num_seeds", 5, "seeds", 1, flag_values=values)
        flags.DEFINE_boolean("dry_run", False, "print commands", flag_values=values)

    options, names = command.parse(rest, __doc__, define)
    if names:
        raise UserError(f"command line: {names[0]!r} is not a flag; --help shows the usage")
    if options.out is None:
        raise UserError("say where the runs go: --out=DIR")
    out = pathlib.Path(options.out)
    runs = [
        GridRun(
            zoo,
            method,
            number,
            out / name,
            _arguments(zoo, method, number, out / name, options.num_seeds, overrides),
        )
        for zoo, method, number in selection(options.only)
        for name in [f"{zoo}-{method}-{number}"]
    ]
    configs = {run.name: run.config() for run in runs}  # a mistake in a setting is told now
    if options.dry_run:
        for run in runs:
            if run.result() is None:
                print(run.command)
        return 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}); choose another --out") from error
    with lock:
        _wait_for(lock, out)
        return _run_all(runs, configs, out, lock.fileno())


def selection(only: Sequence[str]) -> list[tuple[str, str, int]]:
    """Zoo, method and number of probes of the runs that `--only` names.

    Raises:
      UserError: a name that is nothing of these.
    """
    chosen: dict[str, list[Any]] = {"zoo": [], "method": [], "probes": []}
    for name in only:
        if name in ZOOS:
            chosen["zoo"].append(name)
        elif name in (*METHODS, *registry.METHODS):
            chosen["method"].append(name)
        elif name.isdigit() and int(name) > 0:
            chosen["probes"].append(int(name))
        else:
            raise UserError(
                f"--only names {name!r}; choose zoos ({', '.join(ZOOS)}), methods "
                f"({', '.join(METHODS)}) and numbers of probes"
            )
    found = []
    for zoo, method, number in itertools.product(
        chosen["zoo"] or PAPER, chosen["method"] or METHODS, chosen["probes"] or PROBES
    ):
        method = ZOOS[zoo] if method == "synthetic" else method
        kinds = registry.METHODS[ZOOS[zoo]].entries.keys()
        if not kinds & registry.METHODS[method].entries.keys():
            continue  # uniform coordinates are not for CNNs, dead leaves not for INRs
        found.append((zoo, method, number))
    order = (*ZOOS, *registry.METHODS)
    return sorted(set(found), key=lambda run: (order.index(run[0]), order.index(run[1]), run[2]))


def _arguments(
    zoo: str, method: str, number: int, folder: pathlib.Path, num_seeds: int, overrides: Any
) -> tuple[str, ...]:
    config = pathlib.Path(os.path.relpath(REPO)) / "configs" / f"{zoo}.py"
    own = [
        f"--config.{match[2]}"
        for match in sorted(overrides, key=lambda match: match[1] != "config")  # a zoo's own win
        if match[1] in ("config", zoo)
    ]
    return (
        f"--config={config}:{method},{number}",
        f"--config.num_seeds={num_seeds}",
        *own,
        f"--workdir={folder}",
    )


def _wait_for(lock: Any, out: pathlib.Path) -> None:
    """Until no other process works in the folder: not a killed one's last run either."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print(f"another reproduce.py works in {out}; waiting for it to end", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _run_all(runs: Sequence[GridRun], configs: dict[str, Any], out: pathlib.Path, lock: int) -> int:
    failures: dict[str, str] = {}
    for place, run in enumerate(runs, 1):
        print(f"[{place}/{len(runs)}] {run.name}", flush=True)
        failure = _run(run, configs[run.name], lock)
        if failure is not None:
            failures[run.name] = failure
        _write(runs, configs, failures, out)
    print((out / "results.md").read_text())
    for name, failure in failures.items():
        print(f"{name} {failure}", file=sys.stderr)
    return 1 if failures else 0


def _run(run: GridRun, config: dict[str, Any], lock: int) -> str | None:
    """Trains it, goes on with it, or leaves it if it is done; says what went wrong, if anything."""
    try:
        if run.result() is not None:
            refuse_other(run.folder, records.read_config(run.folder), config)
            return None
    except UserError as error:
        return f"failed: {error}"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    }
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


def _write(
    runs: Sequence[GridRun], configs: dict[str, Any], failures: dict[str, str], out: pathlib.Path
) -> None:
    """The tables and the plot of all runs so far, each whole or not there."""
    rows = []
    for run in runs:
        result = run.result()
        others = {"command": run.command}
        if run.name in failures:
            result, others["status"] = None, "failed"
        if result is not None:
            made = (run.folder / "result.json").stat().st_mtime
            day = datetime.datetime.fromtimestamp(made, datetime.UTC).date()
            device = (result.get("environment") or {}).get("device", "")
            others |= {"date": day.isoformat(), "device": device}
        rows.append(results_table.row(run.zoo, configs[run.name], result, **others))
    for name, text in (
        ("results.csv", results_table.to_csv(rows)),
        ("results.md", results_table.to_markdown(rows)),
    ):
        write_text(out / name, text)
    if any(row["status"] == "done" for row in rows):
        import results_plot

        results_plot.draw(out / "results.png", rows)


if __name__ == "__main__":
    errors.run(lambda argv: sys.exit(main(argv)))
