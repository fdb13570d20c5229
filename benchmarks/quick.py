"""Training steps alone, ours first, each side written as soon as it is timed.

    python -m benchmarks.quick --out=/tmp/quick
    python -m benchmarks.quick --case=mnist_inr --sides=ours,loop --probes=8 --out=/tmp/quick

  --case=NAME,…      as of benchmarks.run, and so are --probes, --rounds and --out
  --sides=NAME,…     as of benchmarks.run; ours, loop, compile and vmap, if not given

The same command goes on after the last side that is written. Sides are not timed in turn, so other
work on the machine may meet one and not the next: benchmarks.run is for figures to publish.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from benchmarks import run
from probegen_jax import command, errors
from probegen_jax.errors import UserError
from probegen_jax.files import read_json

_SAME = ("cpu", "cores", "jax", "torch")  # on the machine to go on


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_multi_enum("case", run.CASES, run.CASES, "cases", flag_values=values)
        flags.DEFINE_list("sides", ["ours", "loop", "compile", "vmap"], "sides", flag_values=values)
        flags.DEFINE_integer("probes", 128, "probes", 1, flag_values=values)
        flags.DEFINE_integer("rounds", 5, "rounds", 1, flag_values=values)
        flags.DEFINE_string("out", None, "folder", flag_values=values)
        flags.DEFINE_string("only", None, "for this command's own processes", flag_values=values)

    options, names = command.parse(argv, __doc__, define)
    unknown = [side for side in options.sides if side not in run.SIDES]
    if names or unknown or options.out is None:
        raise UserError(
            f"--sides names {unknown[0]!r}; choose from {', '.join(run.SIDES)}"
            if unknown
            else "say where results go, and nothing else: --out=DIR; --help shows the usage"
        )
    if options.only:
        for found in _each_side(options.only, options):
            print(json.dumps(found), flush=True)
        return
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    results = {"machine": run.machine(), "probes": options.probes, "cases": {}}
    if (out / "results.json").exists():
        before = read_json(out / "results.json")
        same = all(before["machine"][key] == results["machine"][key] for key in _SAME)
        if not same or before["probes"] != options.probes:
            raise UserError(
                f"{out}: holds figures of another machine or number of probes; choose another --out"
            )
        results["cases"] = before["cases"]
    for name in options.case:
        known = results["cases"].setdefault(name, {"step": {}, "facts": {}})
        # Elsewhere networks differ: torch.compile would compile every batch anew, see run.steps.
        there = [side for side in options.sides if side != "compile" or name == "mnist_inr"]
        left = [side for side in there if side not in known["step"]]
        for found in _child(name, left, options) if left else ():
            for key, value in found.items():
                known[key] = known[key] | value if key in ("step", "facts") else value
            run.write(out, results)
    print((out / "results.md").read_text())


def _child(name: str, left: list[str], options: Any) -> Iterator[dict[str, Any]]:
    """What a process of its own finds of a case, as it finds it."""
    numbers = [f"--{key}={options[key].value}" for key in ("probes", "rounds", "out")]
    command_line = [sys.executable, "-m", "benchmarks.quick", f"--only={name}", *numbers]
    with subprocess.Popen(
        [*command_line, f"--sides={','.join(left)}"],
        cwd=run.REPO,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        yield from map(json.loads, child.stdout)
    # Where a side fails, the next command tries it again.
    yield {"error": f"exit code {child.returncode}" if child.returncode else None}


def _each_side(name: str, options: Any) -> Iterator[dict[str, Any]]:
    """The step of each side, as soon as it is known."""
    run.start(name)
    for side, made in run.steps(name, *run.sizes(name, options), options.sides):
        timed = run.time_sides({side: made}, options.rounds)
        yield {**run.where(), "step": timed, "facts": {side: made.facts}}


if __name__ == "__main__":
    errors.run(main)
