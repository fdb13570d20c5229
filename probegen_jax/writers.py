"""The files of a run folder, and what the terminal shows while a run goes on."""

import json
import os
import pathlib
from typing import Any

from tqdm import tqdm

from probegen_jax.errors import UserError


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON to a temporary name, then renames it: the file is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)


def read_json(path: pathlib.Path) -> Any:
    """Reads a file of `write_json`.

    Raises:
      UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); it should be JSON") from error


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, each with its "step"."""

    def __init__(self, path: pathlib.Path, resume_step: int):
        """Args:
        path: of the file.
        resume_step: lines of later steps are dropped: those steps will be made again.
        """
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # the line that a kill cut short
                    continue
                if record["step"] <= resume_step:
                    kept.append(line + "\n")
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text("".join(kept))
        temporary.replace(path)
        self.records = [json.loads(line) for line in kept]
        self._file = path.open("a")

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record and hands it to the system at once."""
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Progress:
    """A bar on a terminal: epoch, loss, validation metric, time left. Nothing when piped."""

    def __init__(self, total: int, done: int, metric: str):
        """Args:
        total: steps of the whole run.
        done: steps made before.
        metric: name of the validation metric.
        """
        self._bar = tqdm(total=total, initial=done, unit="step", desc="training", disable=None)
        self._metric = metric
        self._facts: dict[str, str] = {}

    def show(self, record: dict[str, Any]) -> None:
        """Moves the bar to a metrics record's step."""
        self._facts["epoch"] = str(record["epoch"])
        for name, key in (("loss", "train_loss"), (f"val {self._metric}", f"val_{self._metric}")):
            if key in record:
                self._facts[name] = f"{sum(record[key]) / len(record[key]):.4f}"
        self._bar.set_postfix(self._facts, refresh=False)
        self._bar.update(record["step"] - self._bar.n)

    def close(self) -> None:
        """Leaves the finished bar on the screen."""
        self._bar.close()
