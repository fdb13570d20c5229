"""A prepared data set as arrays: in memory, or where it is large, mapped from files beside it."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tqdm import tqdm

from probegen_jax.errors import UserError
from probegen_jax.files import UNREADABLE, replacing
from probegen_jax.zoo.prepared import checksums, schema
from probegen_jax.zoo.prepared.builders import damaged
from probegen_jax.zoo.zoo import SPLITS

# Networks that are read at a time: enough to keep the reader's threads busy.
_CHUNK = 512

# Bytes of all networks from which they are mapped, so that a host reads only those that it uses.
_LARGE = 2**30

# The same as a share of the memory, for networks whose shapes differ: a zoo holds copies of those.
_LARGE_SHARE = 1 / 4


class Ragged(Sequence):
    """Arrays that differ in length, one after the other in a mapped file."""

    def __init__(self, values: np.ndarray, ends_N: np.ndarray):
        self._values, self._ends_N = values, ends_N

    def __len__(self) -> int:
        return len(self._ends_N)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._ends_N[index - 1] if index else 0
        return self._values[start : self._ends_N[index]]


Columns = dict[str, np.ndarray | Sequence[Any]]


def read(builder: tfds.core.DatasetBuilder) -> tuple[Columns, dict[str, np.ndarray]]:
    """All networks of a prepared zoo.

    Returns:
      Each feature, stacked over the networks (a list of arrays, or `Ragged`, where its shape
      varies), and the rows of each split. Of a large zoo the arrays are mapped from files that are
      made on first use, and so they are in a job of several processes where no shape varies.

    Raises:
      UserError: the prepared files are damaged.
    """
    try:
        small = schema.check(builder) < _LARGE and jax.process_count() == 1
        checksums.check(pathlib.Path(builder.data_dir), data=False)
        if any(map(_varies, builder.info.features.values())):
            files = [file for split in SPLITS for file in schema.files_of(builder, split)]
            small = sum(file.stat().st_size for file in files) < _LARGE_SHARE * _memory()
        if small:
            return _read(builder, lambda _, *kind: np.empty(*kind), lambda _: [])
        return _mapped(builder)
    except (*UNREADABLE, DecodeError) as error:
        raise damaged(pathlib.Path(builder.data_dir), error) from error


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _varies(feature: Any) -> bool:
    """Whether its arrays differ in length."""
    return None in feature.shape


def _sizes(builder: tfds.core.DatasetBuilder) -> dict[str, int]:
    return {split: builder.info.splits[split].num_examples for split in SPLITS}


def _mapped(builder: tfds.core.DatasetBuilder) -> tuple[Columns, dict[str, np.ndarray]]:
    folder = pathlib.Path(builder.data_dir) / "columns"
    if not folder.exists():
        try:
            with replacing(folder) as temporary:
                _map(builder, temporary)
        except OSError as error:
            raise UserError(
                f"cannot write {folder} ({error.strerror}): networks that take more than memory "
                "should are mapped from there; free some space, or choose another folder with "
                "--config.data_dir=DIR"
            ) from error
    columns, sizes = {}, _sizes(builder)
    ends = np.cumsum(list(sizes.values()))
    for name, feature in builder.info.features.items():
        if _varies(feature):
            columns[name] = _ragged(folder, name, feature, int(ends[-1]))
            continue
        column = columns[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        alike = not schema.fixed(feature) or column.dtype == feature.np_dtype
        if column.shape != (ends[-1], *feature.shape) or not alike:
            raise ValueError(f"{folder} is not whole")
    rows = np.split(np.arange(ends[-1], dtype=np.int32), ends[:-1])
    return columns, dict(zip(sizes, rows, strict=True))


def _ragged(folder: pathlib.Path, name: str, feature: Any, number: int) -> Ragged:
    """A feature whose arrays differ in length, mapped."""
    path, ends_N = folder / f"{name}.bin", np.load(folder / f"{name}_ends.npy")
    shape = (int(ends_N[-1]), *feature.shape[1:])
    values = np.memmap(path, feature.np_dtype, "r", shape=shape)
    if ends_N.shape != (number,) or path.stat().st_size != values.nbytes:
        raise ValueError(f"{folder} is not whole")
    return Ragged(np.asarray(values), ends_N)


class _Appended:
    """Arrays that are written to a file one after the other."""

    def __init__(self, path: pathlib.Path):
        self.file, self.lengths = path.open("wb"), []

    def append(self, values: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(values).data)
        self.lengths.append(len(values))


def _map(builder: tfds.core.DatasetBuilder, folder: pathlib.Path) -> None:
    """Makes the folder, with a file for each feature of all networks."""
    folder.mkdir()

    def column(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), shape)

    with contextlib.ExitStack() as files:

        def varying(name: str) -> Any:
            if not _varies(builder.info.features[name]):
                return []
            column = _Appended(folder / f"{name}.bin")
            files.callback(column.file.close)
            return column

        columns, _ = _read(builder, column, varying)
    for name, values in columns.items():
        if isinstance(values, np.memmap):
            values.flush()
        elif isinstance(values, _Appended):
            np.save(folder / f"{name}_ends.npy", np.cumsum(values.lengths, dtype=np.int64))
        else:
            np.save(folder / f"{name}.npy", np.asarray(values))


def _read(
    builder: tfds.core.DatasetBuilder,
    empty: Callable[..., np.ndarray],
    varying: Callable[[str], Any],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    sizes = _sizes(builder)
    total = sum(sizes.values())
    columns: dict[str, Any] = {
        name: empty(name, (total, *each.shape), each.np_dtype)
        if schema.fixed(each)
        else varying(name)
        for name, each in builder.info.features.items()
    }
    rows, start = {}, 0
    checksums.check(pathlib.Path(builder.data_dir), data=True)
    with tqdm(total=total, desc="loading networks", unit="net", disable=None) as bar:
        for split, size in sizes.items():
            rows[split] = np.arange(start, start + size, dtype=np.int32)
            networks = builder.as_data_source(split)
            if len(networks) != size:
                raise ValueError(f"{split} has {len(networks)} networks, not {size}")
            for first in range(0, size, _CHUNK):
                chunk = networks.__getitems__(list(range(first, min(first + _CHUNK, size))))
                for offset, network in enumerate(chunk, start + first):
                    for name, value in network.items():
                        if isinstance(columns[name], np.ndarray):
                            columns[name][offset] = value
                        else:
                            columns[name].append(value)
                bar.update(len(chunk))
            start += size
    return columns, rows
