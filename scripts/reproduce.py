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
  --at_once=N             trainings side by side; 1. On a CPU, as many as it has cores are
                          fastest
  --dry_run               prints the commands of runs that are missing, and runs nothing

Runs what is missing and skips what is done: killed and started again, it ends with the same table.
A run that fails does not stop the others. Exit codes: 0 all done; 1 a run failed; 2 a mistake in
the command; 130 interrupted.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

import grid
import results_table
from absl import flags

from probegen_jax import command, errors
from probegen_jax.errors import UserError
from probegen_jax.files import write_text
from probegen_jax.method.generators import registry

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


@dataclasses.dataclass(frozen=True)
class GridRun(grid.Run):
    """A run of the reproduction."""

    zoo: str
    method: str
    num_probes: int
    folder: pathlib.Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.zoo}-{self.method}-{self.num_probes}"


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    overrides = [match for match in map(_OVERRIDE.fullmatch, argv[1:]) if match]
    rest = [argument for argument in argv if not _OVERRIDE.fullmatch(argument)]

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("out", None, "folder", flag_values=values)
        flags.DEFINE_list("only", [], "selection", flag_values=values)
        flags.DEFINE_integer("num_seeds", 5, "seeds", 1, flag_values=values)
        flags.DEFINE_integer("at_once", 1, "side by side", 1, flag_values=values)
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
        return grid.print_missing(runs)
    return grid.train(runs, out, functools.partial(_write, runs, configs, out), options.at_once)


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


def _write(
    runs: Sequence[GridRun], configs: dict[str, Any], out: pathlib.Path, failures: dict[str, str]
) -> str:
    """The tables and the plot of all runs so far, each whole or not there."""
    rows = []
    for run in runs:
        result = run.result()
        others = {"command": run.command}
        if run.name in failures:
            result, others["status"] = None, "failed"
        else:
            others |= run.made()
        rows.append(results_table.row(run.zoo, configs[run.name], result, **others))
    for name, text in (
        ("results.csv", results_table.to_csv(rows)),
        ("results.md", results_table.to_markdown(rows)),
    ):
        write_text(out / name, text)
    if any(row["status"] == "done" for row in rows):
        import results_plot

        results_plot.draw(out / "results.png", rows)
    return results_table.to_markdown(rows)


if __name__ == "__main__":
    errors.run(lambda argv: sys.exit(main(argv)))
