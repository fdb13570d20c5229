"""Evaluates a finished run again, from its last checkpoint, and says whether the figures agree.

  python -m probegen_jax.evaluate runs/digits-probegen-128
  python -m probegen_jax.evaluate runs/mine --data_dir=/elsewhere --zoo_dir=/elsewhere/zoo

  RUN             the run folder
  --KEY=DIR       where things lie now, if they have moved since: data_dir, zoo_dir, manual_dir,
                  splits_file, networks_dir, targets_csv, checkpoint_dir

Exit codes: 0 the same figures as in result.json; 1 others; 2 a mistake in the command.
"""

import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
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
    from probegen_jax.method.tasks import TASKS
    from probegen_jax.runs import records
    from probegen_jax.runs.experiment import load_run, run_config

    run_config(folder, places)
    if records.read_result(folder, changed=True) is None:
        raise UserError(f"the run in {folder} is not finished; go on with it first")
    run = load_run(folder, places, zoo=zoo, changed=True)
    experiment, zoo = run.experiment, run.experiment.zoo
    found: dict[str, list[dict[str, Any]]] = {}
    ensemble: dict[str, dict[str, Any]] = {}
    for which, steps in (("last", [run.step] * len(experiment.seeds)), ("best", run.best_steps)):
        outputs = {split: run.outputs(zoo.splits[split], which) for split in ("val", "test")}
        parts = outputs if experiment.has_views else ()
        views = {split: run.views(zoo.splits[split], which) for split in parts}
        found[which] = experiment.entries(steps, outputs, views)
        ensemble[which] = experiment.ensemble(outputs, views)
    for which, name in (("last", "last step"), ("best", "best on validation")):
        for split in ("val", "test"):
            figures = {experiment.metric_name: [entry[split] for entry in found[which]]}
            for other in TASKS[zoo.task].beside:
                figures[other] = [entry[f"{split}_{other}"] for entry in found[which]]
            told = (
                f"{metric} {statistics.fmean(values):.4f} ({', '.join(f'{v:.4f}' for v in values)})"
                for metric, values in figures.items()
            )
            print(f"{name}, {split} ({len(zoo.splits[split])} networks): {', '.join(told)}")
    totals = records.totals(zoo.name, experiment.config, experiment.metric_name, found["last"])
    totals |= {"train_networks": len(zoo.splits["train"]), "steps": run.step}
    for which, figures in ensemble.items() if "ensemble" in run.result else ():
        print(f"mean prediction, {which}, test: {experiment.metric_name} {figures['test']:.4f}")
    if not agrees(folder, found, run.result, totals, ensemble):
        return False
    records.read_result(folder)  # refuses one of which another figure was changed
    return True


def agrees(
    folder: pathlib.Path,
    found: Mapping[str, Any],
    result: Mapping[str, Any],
    totals: Mapping[str, Any] | None = None,
    ensemble: Mapping[str, Mapping[str, Any]] | None = None,
) -> bool:
    """Whether figures are those of a `result.json`; says so, or which are not.

    Args:
      found: `Experiment.entries` of the "last" step and of the "best" on validation.
      totals: `Experiment.totals`.
      ensemble: `Experiment.ensemble` of both, which results of earlier versions lack.
    """
    figures = [
        (f"seed {seed['seed']}, {which}, {name.replace('_', ' ')}", value, seed[which].get(name))
        for which, entries in found.items()
        for seed, entry in zip(result["seeds"], entries, strict=True)
        for name, value in entry.items()
        # Results of earlier versions lack the figures by image.
        if name in seed[which] or not name.endswith("_by_image")
    ]
    figures += [
        (name.replace("_", " "), value, result[name])
        for name, value in (totals or {}).items()
        if name != "dataset"  # which a folder that has moved may name otherwise
    ]
    figures += [
        (f"mean prediction, {which}, {name.replace('_', ' ')}", ensemble[which].get(name), there)
        for which, entry in (result.get("ensemble", {}) if ensemble else {}).items()
        for name, there in entry.items()
    ]
    differing = [
        f"{what}: {_shown(here)}, there {_shown(there)}"
        for what, here, there in figures
        if not _alike(here, there)
    ]
    if differing:
        print(f"other figures than in {folder / 'result.json'}: {'; '.join(differing)}")
        return False
    exact = not any(here != there for _, here, there in figures)
    print(
        f"{'the same figures as' if exact else f'within {_TOLERANCE} of the figures'} in "
        f"{folder / 'result.json'}"
    )
    return True


def _alike(here: Any, there: Any) -> bool:
    """Whether figures are within what rounding does; nan is like nan."""
    if type(here) is not float or type(there) is not float:
        return here == there
    unknown = math.isnan(here) and math.isnan(there)
    return unknown or math.isclose(here, there, rel_tol=0, abs_tol=_TOLERANCE)


def _shown(value: Any) -> str:
    return f"{value:.6f}" if type(value) is float else str(value)


if __name__ == "__main__":
    errors.run(main)
