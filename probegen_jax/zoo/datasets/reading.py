"""A prepared data set, read whole into arrays on the host."""

import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tqdm import tqdm

from probegen_jax.zoo.datasets.base import damaged
from probegen_jax.zoo.zoo import SPLITS

# Networks that are read at a time: enough to keep the reader's threads busy.
_CHUNK = 512

Columns = dict[str, np.ndarray | list[Any]]


def read(builder: tfds.core.DatasetBuilder) -> tuple[Columns, dict[str, np.ndarray]]:
    """All networks of a prepared zoo.

    Args:
      builder: of a zoo that is prepared.

    Returns:
      Each feature, stacked over the networks (a list of arrays where its shape varies), and the
      rows of each split.

    Raises:
      UserError: the prepared files are damaged.
    """
    try:
        return _read(builder)
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, DecodeError) as error:
        raise damaged(pathlib.Path(builder.data_dir), error) from error


def _read(builder: tfds.core.DatasetBuilder) -> tuple[Columns, dict[str, np.ndarray]]:
    sizes = {split: builder.info.splits[split].num_examples for split in SPLITS}
    total = sum(sizes.values())
    columns: Columns = {}
    for name, feature in builder.info.features.items():
        fixed = None not in feature.shape and np.issubdtype(feature.np_dtype, np.number)
        columns[name] = np.empty((total, *feature.shape), feature.np_dtype) if fixed else []
    rows, start = {}, 0
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
