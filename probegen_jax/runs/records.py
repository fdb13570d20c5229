"""The JSON files of a run's folder: what each holds, and what to do where one does not."""

import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from ml_collections import ConfigDict

from probegen_jax import settings, typed_json
from probegen_jax.errors import UserError
from probegen_jax.files import write_text
from probegen_jax.typed_json import Figure

CONFIG, RESULT, METRICS, ZOO = "config.json", "result.json", "metrics.jsonl", "zoo.json"


class Figures(TypedDict):
    """The metric of one set of parameters."""

    val: Figure
    test: Figure
    val_within_runs: NotRequired[Figure | None]
    test_within_runs: NotRequired[Figure | None]
    val_by_image: NotRequired[Figure]  # of the mean prediction for each image
    test_by_image: NotRequired[Figure]
    val_accuracy: NotRequired[Figure]  # where that is not the metric
    test_accuracy: NotRequired[Figure]


class SeedFigures(Figures):
    """That of a seed, at a step."""

    step: int


class Ensemble(TypedDict):
    """The metric of the mean prediction over seeds."""

    last: Figures
    best: Figures


class SeedResult(TypedDict):
    """What one seed came to."""

    seed: int
    last: SeedFigures
    best: SeedFigures


class Result(TypedDict):
    """The content of `result.json`."""

    dataset: str
    method: str
    num_probes: int
    metric: Literal["accuracy", "mean_average_precision", "kendall_tau"]
    seeds: list[SeedResult]
    mean: Figure
    std: Figure
    ensemble: NotRequired[Ensemble]  # of several seeds
    train_networks: int
    steps: int
    seconds: float
    steps_per_second: float
    environment: NotRequired[dict[str, str]]


_TIMES = ("seconds", "steps_per_second")


def totals(dataset: str, config: Any, metric: str, last: Sequence[Figures]) -> dict[str, Any]:
    """What `result.json` says of all seeds together, by their figures at the last step."""
    test = [entry["test"] for entry in last]
    return {
        "dataset": dataset,
        "method": config["method"],
        "num_probes": config["num_probes"],
        "metric": metric,
        "mean": float(np.mean(test)),
        "std": float(np.std(test, ddof=1)) if len(test) > 1 else 0.0,
    }


def sign(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with a digest, by which damage shows; of the same figures it is the same."""
    digest = typed_json.signed(_without_times(result))[typed_json.DIGEST]
    return {**result, typed_json.DIGEST: digest}


def _without_times(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in _TIMES}


def _is_whole(result: Mapping[str, Any]) -> bool:
    """Whether a result is as it was written."""
    fitting = not result["seconds"] or math.isclose(
        result["steps_per_second"] * result["seconds"], result["steps"], rel_tol=1e-9
    )
    return fitting and typed_json.is_as_signed(_without_times(result))


def read_result(folder: pathlib.Path, changed: bool = False) -> dict[str, Any] | None:
    """The result of a run; None of one that is not finished.

    Args:
      changed: whether to take one that is not as the training wrote it.

    Raises:
      UserError: it cannot be read, or is not as it was written.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    remedy = "delete it, and the command that trained the run makes it again"
    result = typed_json.read(path, Result, remedy)
    if not result["seeds"]:
        raise UserError(f"{path}: seeds is empty; {remedy}")
    if not changed and not _is_whole(result):
        raise UserError(
            f"{path} was changed after the training wrote it; python -m probegen_jax.evaluate "
            f"{folder} says in which figure; {remedy}"
        )
    return result


def refuse_other_result(
    folder: pathlib.Path, result: Mapping[str, Any] | None, steps: int, num_seeds: int
) -> None:
    """Raises a `UserError` if a result is not of so many steps and seeds."""
    if result is not None and (result["steps"], len(result["seeds"])) != (steps, num_seeds):
        raise UserError(
            f"{folder / RESULT} is of {result['steps']} steps and {len(result['seeds'])} seed(s), "
            f"but the last checkpoint of {steps} and {num_seeds}; delete that file, and the "
            "command that trained the run makes it again"
        )


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The settings of a run; only that they are settings is looked at here.

    Raises:
      UserError: there are none, or they cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no {CONFIG}")
    remedy = f"put back a copy of it, or delete {folder} and train again"
    return typed_json.read(path, dict[str, Any], remedy)


def run_config(folder: pathlib.Path, places: Mapping[str, str] | None = None) -> ConfigDict:
    """The config of a run's folder, checked; see `experiment.load_run`."""
    config = ConfigDict(read_config(folder))
    settings.check(config, folder / CONFIG)
    config.update(dict(places or {}))
    return config


def read_zoo(folder: pathlib.Path) -> dict[str, Any]:
    """What `zoo.json` says of a run's zoo; nothing of older runs, or where it cannot be read.

    The checkpoints say the same, and training writes the file again.
    """
    path = folder / ZOO
    if not path.exists():
        return {}
    try:
        return typed_json.read(path, dict[str, Any], "")
    except UserError:
        print(f"{path} cannot be read; what the checkpoints say counts", file=sys.stderr)
        return {}


def mend_metrics(folder: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes the metrics of a finished run again where its file has lost or changed some.

    Args:
      records: as the last checkpoint has them.
    """
    path = folder / METRICS
    wanted = lines(records)
    try:
        found = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        found = ""
    if found != wanted:
        write_text(path, wanted)
        print(f"{path} was damaged; it is written again from the checkpoint")


def reach(folder: pathlib.Path, steps: int) -> bool:
    """Whether the metrics of a run can all be read, and go up to a step."""
    try:
        text = (folder / METRICS).read_text(encoding="utf-8")
        return [json.loads(line)["step"] for line in text.splitlines()][-1] == steps
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def lines(records: Sequence[Mapping[str, Any]]) -> str:
    """A line of JSON for each record."""
    return "".join(json.dumps(record) + "\n" for record in records)
