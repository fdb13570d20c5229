"""Evaluates a finished run again, from its last checkpoint, and says whether the figures agree.

  python -m probegen_jax.evaluate runs/digits-probegen-128
  python -m probegen_jax.evaluate runs/mine --data_dir=/elsewhere --zoo_dir=/elsewhere/zoo

  RUN             the run folder
  --KEY=DIR       where things lie now, if they have moved since: data_dir, zoo_dir, manual_dir,
                  splits_file, networks_dir, targets_csv

Exit codes: 0 the same figures as in result.json; 1 others; 2 a mistake in the command.
"""

import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from probegen_jax import command, errors
from probegen_jax.errors import UserError

# A metric may move by this much from one machine to another: float32 rounds differently there.
_TOLERANCE = 1e-3


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    options, names = command.parse(argv, __doc__, command.define_places)
    if len(names) != 1:
        raise UserError("give one run folder, as in runs/digits-probegen-128; --help shows more")
    if not evaluate(pathlib.Path(names[0]), command.places(options)):
        sys.exit(1)


def evaluate(folder: pathlib.Path, places: dict[str, str], zoo: Any = None) -> bool:
    """Shows a run's figures, computed again; whether they are those of `result.json`.

    Raises:
      UserError: no such run, or one that is not finished.
    """
    from probegen_jax.runs.experiment import load_run, run_config

    run_config(folder, places)
    if not (folder / "result.json").exists():
        raise UserError(f"the run in {folder} is not finished; go on with it first")
    run = load_run(folder, places, zoo=zoo)
    experiment, zoo = run.experiment, run.experiment.zoo
    found: dict[str, list[dict[str, Any]]] = {}
    for which, steps in (("last", [run.step] * len(experiment.seeds)), ("best", run.best_steps)):
        outputs = {split: run.outputs(zoo.splits[split], which) for split in ("val", "test")}
        found[which] = experiment.entries(steps, outputs)
    for which, name in (("last", "last step"), ("best", "best on validation")):
        for split in ("val", "test"):
            values = [entry[split] for entry in found[which]]
            each = ", ".join(f"{value:.4f}" for value in values)
            print(
                f"{name}, {split} ({len(zoo.splits[split])} networks): {experiment.metric_name} "
                f"{statistics.fmean(values):.4f} ({each})"
            )
    return agrees(folder, found, run.result)


def agrees(folder: pathlib.Path, found: dict[str, Any], result: dict[str, Any]) -> bool:
    """Whether figures are those of a `result.json`; says so, or which are not."""
    differing = [
        f"seed {seed['seed']}, {which}, {split}: {entry[split]:.6f}, there {seed[which][split]:.6f}"
        for which, entries in found.items()
        for seed, entry in zip(result["seeds"], entries, strict=True)
        for split in ("val", "test")
        if not abs(entry[split] - seed[which][split]) <= _TOLERANCE
    ]
    if differing:
        print(f"other figures than in {folder / 'result.json'}: {'; '.join(differing)}")
        return False
    exact = found == {which: [seed[which] for seed in result["seeds"]] for which in found}
    print(
        f"{'the same figures as' if exact else f'within {_TOLERANCE} of the figures'} in "
        f"{folder / 'result.json'}"
    )
    return True


if __name__ == "__main__":
    errors.run(main)
