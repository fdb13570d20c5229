"""The three files of a Small CNN Zoo: `weights.npy`, `metrics.csv.gz`, `layout.csv`.

They are read from a folder, where the weights are memory-mapped, or from the published
`.tar.xz`, which is read in one pass without unpacking it.
"""

import ast
import csv
import gzip
import io
import pathlib
import tarfile
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from probegen_jax.errors import UserError
from probegen_jax.files import UNREADABLE
from probegen_jax.zoo.files.archives import MOST_BYTES, Listing, listing

# Epochs of every published run; zoos that were built here say theirs in `config.epochs`.
PUBLISHED_EPOCHS = 86
WEIGHTS, METRICS, LAYOUT = "weights.npy", "metrics.csv.gz", "layout.csv"
# What networks of this format have; the published zoos have the first two.
ACTIVATIONS = ("relu", "tanh", "sigmoid", "selu")

# Weights of a network that there can be in a row.
_WIDEST = 2**20

# Rows of a streamed `weights.npy` that are held at a time: 80 MB.
_CHUNK = 4096
# How one network is stored by us: in this order, that of names; kernels (k, k, in, out), the head
# (in, out).
SHAPES = {
    "sequential/conv2d/bias:0": (16,),
    "sequential/conv2d/kernel:0": (3, 3, 1, 16),
    "sequential/conv2d_1/bias:0": (16,),
    "sequential/conv2d_1/kernel:0": (3, 3, 16, 16),
    "sequential/conv2d_2/bias:0": (16,),
    "sequential/conv2d_2/kernel:0": (3, 3, 16, 16),
    "sequential/dense/bias:0": (10,),
    "sequential/dense/kernel:0": (16, 10),
}
NUM_WEIGHTS = sum(int(np.prod(shape)) for shape in SHAPES.values())

_FETCH = "fetch the zoo again"

# Weights by row: the mapped file, or the rows that were kept of a streamed one.
Rows = np.ndarray | dict[int, np.ndarray]


class Metrics(NamedTuple):
    """What is known of a row of `weights.npy`.

    Attributes:
      final: epochs of the run; a checkpoint of that epoch is its last.
      dataset: what the network was trained on; empty if the file does not say it.
    """

    path: str
    step: int
    final: int
    score: float
    activation: str
    dataset: str


def parse_metrics(data: bytes, where: str) -> list[Metrics]:
    """Reads `metrics.csv.gz`; a `UserError` if it is damaged, or lacks a column or a number."""
    try:
        with gzip.open(io.BytesIO(data)) as file:
            text = _at_most(file).decode()
    except UNREADABLE as error:
        raise UserError(f"{where}: is truncated or damaged ({error}); {_FETCH}") from error
    rows = csv.DictReader(io.StringIO(text))
    columns = rows.fieldnames or []
    for column in ("step", "test_accuracy", "config.activation"):
        if column not in columns:
            raise UserError(f"{where}: has no column {column!r}; {_FETCH}")
    metrics = []
    for line, row in enumerate(rows, 2):
        try:
            path = row[columns[0]]  # a column without a name
            step, final = int(row["step"]), int(row.get("config.epochs") or PUBLISHED_EPOCHS)
            score, activation = float(row["test_accuracy"]), row["config.activation"]
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: line {line} is not readable ({error}); {_FETCH}") from error
        dataset = row.get("config.dataset") or ""
        metrics.append(Metrics(path, step, final, score, activation, dataset))
    return metrics


def parse_layout(data: bytes, where: str) -> Int[np.ndarray, " V"]:
    """Reads `layout.csv`: the column of `weights.npy` of each number, in the order of `SHAPES`.

    Raises:
      UserError: another architecture than the zoo's, or no such file.
    """
    columns_of: dict[str, np.ndarray] = {}
    for line, row in enumerate(csv.DictReader(io.StringIO(data.decode(errors="replace"))), 2):
        try:
            start, end = int(row["start_idx"]), int(row["end_idx"])
            shape = ast.literal_eval(row["shape"])
            name = row["varname"]
        except UNREADABLE as error:
            raise UserError(f"{where}: line {line} is not readable; {_FETCH}") from error
        if shape != SHAPES.get(name) or end - start != np.prod(shape) or not 0 <= start < _WIDEST:
            raise UserError(
                f"{where}: {name} has shape {shape} at {start} to {end}, which is not the Small "
                f"CNN Zoo's architecture; {_FETCH}"
            )
        columns_of[name] = np.arange(start, end)
    missing = sorted(set(SHAPES) - set(columns_of))
    if missing:
        raise UserError(f"{where}: has no {missing[0]}; {_FETCH}")
    return np.concatenate([columns_of[name] for name in SHAPES])


class FolderFiles:
    """The files in a folder; the weights are memory-mapped."""

    def __init__(self, folder: pathlib.Path):
        self.where = folder

    def listing(self) -> Listing:
        """Of the three files."""
        paths = (self.where / name for name in (WEIGHTS, METRICS, LAYOUT))
        return listing((path.name, path.stat()) for path in paths if path.exists())

    def small(self, name: str) -> bytes:
        """The content of `metrics.csv.gz` or `layout.csv`."""
        path = self.where / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {_FETCH}") from error

    def rows(self, wanted: Int[np.ndarray, " N"], number: int, width: int) -> Rows:
        """The rows, memory-mapped, so that only those that are used are read.

        A `UserError` if the file is truncated, or not of `number` rows of at least `width` weights.
        """
        path = self.where / WEIGHTS
        try:
            weights = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: is truncated or damaged ({error}); {_FETCH}") from error
        _check_weights(weights.shape, weights.dtype, number, width, str(path))
        return weights


class TarFiles:
    """The files in the published archive."""

    def __init__(self, path: pathlib.Path):
        self.where = path

    def listing(self) -> Listing:
        """Of the archive itself."""
        return listing([("", self.where.stat())])

    def small(self, name: str) -> bytes:
        return self._member(name, _at_most)

    def rows(self, wanted: Int[np.ndarray, " N"], number: int, width: int) -> Rows:
        return self._member(WEIGHTS, lambda file: self._stream(file, wanted, number, width))

    def _stream(self, file: io.BufferedReader, wanted: np.ndarray, number: int, width: int) -> Rows:
        where = f"{self.where}: {WEIGHTS}"
        first = np.lib.format.read_magic(file) == (1, 0)
        header = (
            np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = header(file)
        _check_weights(shape, dtype, number, width, where)
        if fortran:
            raise UserError(f"{where}: is in Fortran order; {_FETCH}")
        width = shape[1]
        weights: dict[int, np.ndarray] = {}
        keep = frozenset(wanted.tolist())
        with tqdm(total=number, desc="unpacking weights", unit="net", disable=None) as bar:
            for first in range(0, number, _CHUNK):
                count = min(_CHUNK, number - first)
                data = file.read(count * width * 4)
                if len(data) != count * width * 4:
                    raise EOFError(f"ends in row {first + len(data) // (width * 4)} of {number}")
                block = np.frombuffer(data, dtype).reshape(count, width)
                for row in keep.intersection(range(first, first + count)):
                    weights[row] = block[row - first].copy()
                bar.update(count)
        return weights

    def _member(self, name, read):
        try:
            with tarfile.open(self.where, "r|*") as archive:
                for member in archive:
                    if member.isfile() and pathlib.PurePosixPath(member.name).name == name:
                        return read(archive.extractfile(member))
        except UNREADABLE as error:
            raise UserError(
                f"{self.where}: is not a complete archive ({error}); delete it and fetch it again"
            ) from error
        raise UserError(f"{self.where}: holds no {name}; delete it and fetch it again")


Files = FolderFiles | TarFiles


def _at_most(file: io.BufferedIOBase) -> bytes:
    """What a packed file holds, if it is no more than any such file has."""
    content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"unpacks to more than {MOST_BYTES:,} bytes")
    return content


def _check_weights(
    shape: tuple[int, ...], dtype: np.dtype, number: int, width: int, where: str
) -> None:
    if dtype != np.float32 or len(shape) != 2:
        raise UserError(f"{where}: is {dtype} {shape}, expected float32 (networks, weights)")
    if shape[0] != number:
        raise UserError(f"{where}: has {shape[0]} rows, {METRICS} has {number}; {_FETCH}")
    if not width <= shape[1] <= _WIDEST:
        limit = f"{LAYOUT} says {width}" if shape[1] < width else "more than any zoo"
        raise UserError(f"{where}: has {shape[1]} columns, {limit}; {_FETCH}")
