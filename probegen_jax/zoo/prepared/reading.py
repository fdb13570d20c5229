"""A prepared data set as arrays: in memory, or where it is large, mapped from files beside it."""

import pathlib
from collections.abc import Callable
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

Columns = dict[str, np.ndarray | list[Any]]


def read(builder: tfds.core.DatasetBuilder) -> tuple[Columns, dict[str, np.ndarray]]:
    """All networks of a prepared zoo.

    Returns:
      Each feature, stacked over the networks (a list of arrays where its shape varies), and the
      rows of each split. Of a large zoo, or in a job of several processes, the arrays are mapped
      from files that are made on first use.

    Raises:
      UserError: the prepared files are damaged.
    """
    try:
        small = schema.check(builder) < _LARGE and jax.process_count() == 1
        checksums.check(pathlib.Path(builder.data_dir), data=False)
        if small or any(None in feature.shape for feature in builder.info.features.values()):
            return _read(builder, lambda _, *kind: np.empty(*kind))
        return _mapped(builder)
    except (*UNREADABLE, DecodeError) as error:
        raise damaged(pathlib.Path(builder.data_dir), error) from error


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
        column = columns[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        alike = not schema.fixed(feature) or column.dtype == feature.np_dtype
        if column.shape != (ends[-1], *feature.shape) or not alike:
            raise ValueError(f"{folder} is not whole")
    rows = np.split(np.arange(ends[-1], dtype=np.int32), ends[:-1])
    return columns, dict(zip(sizes, rows, strict=True))


def _map(builder: tfds.core.DatasetBuilder, folder: pathlib.Path) -> None:
    """Makes the folder, with a file for each feature of all networks."""
    folder.mkdir()

    def column(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), shape)

    columns, _ = _read(builder, column)
    for name, values in columns.items():
        if isinstance(values, np.memmap):
            values.flush()
        else:
            np.save(folder / f"{name}.npy", np.asarray(values))


def _read(
    builder: tfds.core.DatasetBuilder, empty: Callable[..., np.ndarray]
) -> tuple[Columns, dict[str, np.ndarray]]:
    sizes = _sizes(builder)
    total = sum(sizes.values())
    columns: Columns = {
        name: empty(name, (total, *each.shape), each.np_dtype) if schema.fixed(each) else []
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
                        if isinstance(columns[name], list):
                            columns[name].append(value)
                        else:
                            columns[name][offset] = value
                bar.update(len(chunk))
            start += size
    return columns, rows
