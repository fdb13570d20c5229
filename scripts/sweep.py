"""Curves for a zoo: test scores against probes, arithmetic and training networks, of many methods.

    python scripts/sweep.py --config=configs/digits.py --out=runs/sweep
    python scripts/sweep.py --config=configs/mnist.py --out=runs/sweep --at_once=3 \
        --config.zoo_dir=zoos/mnist --probes=16,64,256,1024 --networks=1000,10000 --num_seeds=3

  --config=FILE           of the zoo
  --out=DIR               a run folder for each run, sweep.csv, sweep.md and sweep.png
  --methods=NAME,…        METHOD, METHOD:READOUT, or either with settings of its own, as
                          vanilla+probe_dropout=0.1+generator_depth=3; probegen, probegen:hidden,
                          vanilla and uniform, if not given
  --probes=N,…            16,64,256,1024, if not given; --probes= for none; methods that decide
                          their number run once
  --networks=N,…          training networks, with as many probes as the config says; none, if not
                          given
  --num_seeds=N           seeds of every run; 3 if not given
  --config.KEY=VALUE      a setting of every run
  --at_once=N             trainings side by side; 1. On a CPU, as many as it has cores are
                          fastest. Two keep a GPU busy, more gain nothing
  --dry_run               prints the commands of runs that are missing, and runs nothing

Arithmetic is that of the matmuls and convolutions of one prediction of a batch, once probes are
made; in a zoo of mixed CNNs, as if every layer was the dearest. Runs what is missing and skips what
is done: killed and started again, it ends with the same table. Exit codes: 0 all done; 1 a run
failed; 2 a mistake in the command; 130 interrupted.
"""

import dataclasses
import functools
import pathlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

import grid
import results_table
from absl import flags

from probegen_jax import command, errors
from probegen_jax.errors import UserError
from probegen_jax.files import write_text
from probegen_jax.method.generators.registry import METHODS
from probegen_jax.method.readouts.registry import DEFAULT, READOUTS

_OWN = "--config."
COLUMNS = (
    "method",
    "readout",
    "settings",
    "num_probes",
    "train_networks",
    "mflop",
    "metric",
    "num_seeds",
    "val_mean",
    "test_mean",
    "test_std",
    "ensemble_test",
    "seconds",
    "device",
    "date",
    "status",
    "command",
)


# Method, readout and settings of a curve.
Variant = tuple[str, str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class SweepRun(grid.Run):
    """A point of the curves.

    Attributes:
      settings: of its own, as KEY=VALUE.
      networks: to train on; None for all that the zoo has.
    """

    method: str
    readout: str
    settings: tuple[str, ...]
    num_probes: int
    networks: int | None
    folder: pathlib.Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    own = [argument for argument in argv[1:] if argument.startswith(_OWN)]
    rest = [argument for argument in argv if not argument.startswith(_OWN)]

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("config", None, "of the zoo", flag_values=values)
        flags.DEFINE_string("out", None, "folder", flag_values=values)
        flags.DEFINE_list("methods", [], "methods", flag_values=values)
        flags.DEFINE_list("probes", ["16", "64", "256", "1024"], "probes", flag_values=values)
        flags.DEFINE_list("networks", [], "training networks", flag_values=values)
        flags.DEFINE_integer("num_seeds", 3, "seeds", 1, flag_values=values)
        flags.DEFINE_integer("at_once", 1, "side by side", 1, flag_values=values)
        flags.DEFINE_boolean("dry_run", False, "print commands", flag_values=values)

    options, names = command.parse(rest, __doc__, define)
    if names:
        raise UserError(f"command line: {names[0]!r} is not a flag; --help shows the usage")
    if options.config is None or options.out is None:
        raise UserError("say which zoo, and where the runs go: --config=FILE --out=DIR")
    out = pathlib.Path(options.out)
    runs = list(_runs(options, out, [f"--config.num_seeds={options.num_seeds}", *own]))
    for run in runs:
        run.config()  # a mistake in a setting is told now
    if options.dry_run:
        return grid.print_missing(runs)
    return grid.train(runs, out, functools.partial(_write, runs, out), options.at_once)


def _runs(options: Any, out: pathlib.Path, own: Sequence[str]) -> Iterator[SweepRun]:
    """What the command line asks for, each once."""

    def made(variant: Variant, probes: int | None, networks: int | None) -> SweepRun:
        method, readout, ours = variant
        parts = [method, *([readout] if readout != DEFAULT else []), *ours]
        arguments = [f"--config={options.config}", f"{_OWN}method={method}", *own]
        arguments += [f"--config.readout={readout}"] if readout != DEFAULT else []
        arguments += [f"{_OWN}{setting}" for setting in ours]
        arguments += [f"--config.num_probes={probes}"] if probes else []
        arguments += [f"--config.max_train_networks={networks}"] if networks else []
        parts += [f"{probes}probes"] if probes else []
        parts += [f"{networks}networks"] if networks else []
        folder = out / "-".join(parts)
        run = SweepRun(*variant, probes or 0, networks, folder, tuple(arguments))
        number = probes or run.config()["num_probes"]
        arguments.append(f"--workdir={folder}")
        return dataclasses.replace(run, num_probes=number, arguments=tuple(arguments))

    probes, networks = (_numbers(options, name) for name in ("probes", "networks"))
    for variant in _variants(options):
        # Of methods that decide their number of probes, there is one point.
        decides = METHODS[variant[0]].number is not None
        for number in [None] if decides and probes else probes:
            yield made(variant, number, None)
        for number in networks:
            yield made(variant, None, number)


def _variants(options: Any) -> list[Variant]:
    """Method, readout and settings of each curve; a `UserError` for names that are none."""
    found = []
    for name in options.methods or ["probegen", "probegen:hidden", "vanilla", "uniform"]:
        label, *ours = name.split("+")
        method, _, readout = label.partition(":")
        if method not in METHODS or (readout or DEFAULT) not in READOUTS:
            raise UserError(
                f"--methods names {name!r}; give METHOD, METHOD:READOUT, or either with "
                f"+KEY=VALUE, methods being {', '.join(METHODS)}, "
                f"and readouts {', '.join(READOUTS)}"
            )
        if any("=" not in setting for setting in ours):
            raise UserError(f"--methods names {name!r}; a setting is given as +KEY=VALUE")
        found.append((method, readout or DEFAULT, tuple(ours)))
    return list(dict.fromkeys(found))


def _numbers(options: Any, name: str) -> list[int]:
    """The numbers of a flag; a `UserError` where they are none."""
    wrong = [text for text in options[name].value if not text.isdigit() or int(text) < 1]
    if wrong:
        raise UserError(f"--{name} names {wrong[0]!r}; give whole numbers above 0")
    return list(dict.fromkeys(map(int, options[name].value)))


def _write(runs: Sequence[SweepRun], out: pathlib.Path, failures: dict[str, str]) -> str:
    """The table and the picture of all runs so far, each whole or not there."""
    rows = []
    for run in runs:
        row = dict.fromkeys(COLUMNS, "") | {
            "method": run.method,
            "readout": run.readout,
            "settings": " ".join(run.settings),
            "num_probes": str(run.num_probes),
            "train_networks": str(run.networks or ""),
            "status": "failed" if run.name in failures else "not run",
            "command": run.command,
        }
        result = None if run.name in failures else run.result()
        if result is not None:
            scores = results_table.scores(result)
            val = statistics.fmean(seed["last"]["val"] for seed in result["seeds"])
            row |= run.made() | {key: scores[key] for key in COLUMNS if key in scores}
            row |= {"mflop": f"{mflop(run):.4g}", "val_mean": repr(val)}
        rows.append(row)
    write_text(out / "sweep.csv", results_table.to_csv(rows, COLUMNS))
    write_text(out / "sweep.md", _markdown(rows))
    if any(row["status"] == "done" for row in rows):
        import sweep_plot

        sweep_plot.draw(out / "sweep.png", rows)
    return _markdown(rows)


@functools.cache
def mflop(run: SweepRun) -> float:
    """Millions of operations of matmuls and convolutions that one network's prediction takes."""
    import jax
    import numpy as np
    from flax import nnx

    # This process traces and computes nothing: it must take no accelerator from those that train.
    jax.config.update("jax_platforms", "cpu")
    from benchmarks.step import flops
    from probegen_jax.runs.experiment import set_up
    from probegen_jax.runs.records import run_config

    config = run_config(run.folder)
    # A CPU's own forms of convolutions hide what they are; a TPU's are the plain ones.
    experiment = set_up(config, _zoo(run.folder), platform="tpu")
    learner, zoo = experiment.learner, experiment.zoo
    batch = config.batch_size
    weights = zoo.shard([np.arange(batch) % len(zoo)], lambda counts: counts)[0]
    graphdef, state = nnx.split(nnx.eval_shape(lambda: learner.make_model(jax.random.key(0))))
    probes = jax.eval_shape(lambda state: nnx.merge(graphdef, state).generator(), state)

    def prediction(state: Any, weights: Any, probes: Any) -> Any:
        head = nnx.merge(graphdef, state).head
        return head(head.answers(learner.spec, weights, probes))

    return flops(jax.make_jaxpr(prediction)(state, weights, probes).jaxpr) / batch / 1e6


_ZOOS: dict[pathlib.Path, Any] = {}


def _zoo(folder: pathlib.Path) -> Any:
    """The zoo of a run; all runs of a sweep have the same."""
    from probegen_jax.runs.experiment import zoo_of
    from probegen_jax.runs.records import run_config

    if folder.parent not in _ZOOS:
        _ZOOS[folder.parent] = zoo_of(run_config(folder))
    return _ZOOS[folder.parent]


def _markdown(rows: Sequence[dict[str, str]]) -> str:
    """The figures as a table."""
    lines = [
        "| method | readout | settings | probes | training networks | MFLOP a prediction | "
        "test, last step | ensemble | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        keys = ("method", "readout", "settings", "num_probes", "train_networks", "mflop")
        cells = [row[key] for key in keys]
        if row["status"] == "done":
            ensemble = row["ensemble_test"] and f"{float(row['ensemble_test']):.4f}"
            score = f"{float(row['test_mean']):.4f} ± {float(row['test_std']):.4f}"
            cells += [score, ensemble, row["seconds"]]
        else:
            cells += [row["status"], "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    done = [row for row in rows if row["status"] == "done"]
    seeds = "; ".join(sorted({row["num_seeds"] for row in done}))
    made = "; ".join(sorted({f"{row['device']}, {row['date']}" for row in done}))
    metric = " and ".join(sorted({row["metric"] for row in done}))
    if done:
        lines += ["", f"{metric}: mean ± standard deviation over {seeds} seeds. Made on {made}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    errors.run(lambda argv: sys.exit(main(argv)))
