"""`metrics.jsonl`, TensorBoard, and what the terminal shows while a run goes on."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from probegen_jax.errors import UserError
from probegen_jax.files import write_text


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, each with its "step"."""

    def __init__(
        self,
        path: pathlib.Path,
        records: Sequence[dict[str, Any]] = (),
        board: "TensorBoard | None" = None,
    ):
        """Args:
        path: of the file.
        records: of the steps so far, as the checkpoint has them. The file then holds these alone:
          steps after the checkpoint will be made again.
        board: is given every later record, too.
        """
        write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        self._file = path.open("a")
        self._board = board

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record and hands it to the system at once."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            self._board.scalars(record)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class TensorBoard:
    """What `metrics.jsonl` says, which stays the source of truth, for TensorBoard."""

    def __init__(self, folder: pathlib.Path, resume_step: int = 0):
        """Args:
        folder: of the event files.
        resume_step: what was written for later steps is hidden: those steps will be made again.

        Raises:
          UserError: tensorboardX is not installed.
        """
        try:
            from tensorboardX import SummaryWriter  # an optional extra
        except ImportError as error:
            raise UserError(
                "config.tensorboard needs tensorboardX: pip install -r requirements-tensorboard.txt"
            ) from error
        purge = resume_step + 1 if resume_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def scalars(self, record: dict[str, Any]) -> None:
        """A metrics record: the mean over seeds of each list, and each seed's value if several."""
        for name, values in record.items():
            if not isinstance(values, list):
                continue
            self._writer.add_scalar(name, sum(values) / len(values), record["step"])
            for n, value in enumerate(values if len(values) > 1 else []):
                self._writer.add_scalar(f"{name}/seed_{n}", value, record["step"])
        self._writer.flush()

    def text(self, name: str, content: str) -> None:
        """A text, in Markdown."""
        self._writer.add_text(name, content, 0)

    def picture(self, name: str, path: pathlib.Path, step: int) -> None:
        """A PNG, as at a step."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is still to be written."""
        self._writer.close()


class Progress:
    """A bar on a terminal: epoch, loss, validation metric, time left. Nothing when piped."""

    def __init__(self, total: int, done: int, metric: str):
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
