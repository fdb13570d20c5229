"""Which networks are for training, validation and test: the official files, or our own seed.

A split is a list of positions or names for each of "train", "val" and "test".
"""

import collections
import gzip
import hashlib
import json
import pathlib
import random
import re
import zlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.zoo.zoo import SPLITS

# Of every 60,000 networks that are not for test, the published INR zoos validate on 5,000.
INR_VAL_SHARE = 5_000 / 60_000
# NFN's on 5,000 of every 50,000.
NFN_VAL_SHARE = 5_000 / 50_000
# Of the Wild Park's 2,800 training runs, 25 are for validation and 50 for test.
PARK_VAL_SHARE, PARK_TEST_SHARE = 25 / 2_800, 50 / 2_800

SEED = 0
_FETCH = "fetch the splits file again"


def find_file(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The splits file `name`, or `name.gz`, in `folder`; None if it is not there."""
    return next(filter(pathlib.Path.is_file, (folder / name, folder / f"{name}.gz")), None)


def fingerprint(path: pathlib.Path) -> str:
    """Hash of a splits file's content, by which a prepared zoo knows its split again."""
    return hashlib.sha256(_read(path)).hexdigest()


def read_json(
    path: pathlib.Path, target: str, name_of: Callable[[str], str] = str
) -> dict[str, list[tuple[str, Any]]]:
    """Reads a splits JSON: `{"train"|"val"|"test": {"path": [...], target: [...]}}`.

    Args:
      target: key of the targets: "label" or "score".
      name_of: the network's name from its path; one network may be listed under two paths.

    Returns:
      (name, target) of each network, by split; a `UserError` if it names a network twice.
    """
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); {_FETCH}") from error
    splits: dict[str, list[tuple[str, Any]]] = {}
    seen: dict[str, str] = {}
    for split in SPLITS:
        entry = content.get(split) if isinstance(content, dict) else None
        if not isinstance(entry, dict) or not {"path", target} <= entry.keys():
            raise UserError(f"{path}: split {split!r} lacks 'path' or {target!r}; wrong file?")
        paths, targets = entry["path"], entry[target]
        for key, values, types in (("path", paths, str), (target, targets, str | int | float)):
            if not isinstance(values, list):
                raise UserError(f"{path}: {key!r} of {split!r} is not a list; wrong file?")
            for wrong in (value for value in values if not isinstance(value, types)):
                raise UserError(f"{path}: {split!r} has {wrong!r} for a {key}; {_FETCH}")
        if len(paths) != len(targets):
            counts = f"{len(paths)} paths and {len(targets)} {target}s"
            raise UserError(f"{path}: {split!r} has {counts}; {_FETCH}")
        names = [name_of(each) for each in paths]
        for name in names:
            if name in seen:
                where = "twice in" if seen[name] == split else f"in {seen[name]!r} and in"
                raise UserError(f"{path}: {name} is {where} {split!r}; list each network once")
            seen[name] = split
        splits[split] = list(zip(names, targets, strict=True))
    return splits


def check_runs(path: pathlib.Path, splits: dict[str, list[str]], run: Callable[[str], str]) -> None:
    """Raises a `UserError` if networks of one training run are in two splits."""
    seen: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            other = seen.setdefault(run(name), split)
            if other != split:
                raise UserError(
                    f"{path}: checkpoints of {run(name)} are in {other!r} and in {split!r}; put "
                    "each run on one side only"
                )


def seeded(
    items: Sequence[Hashable],
    val_share: float,
    test_share: float,
    seed: int = SEED,
    *,
    where: object = "zoo",
) -> dict[str, list[Any]]:
    """Our own split where there is no official one, or it was drawn without a seed.

    Args:
      items: what is to be split, in an order that does not change.
      val_share: of validation, among all items; at least one item gets there.
      test_share: of test, likewise, unless it is 0.
      where: what a `UserError` for too few items is about.
    """
    number = len(items)
    test = max(1, round(number * test_share)) if test_share else 0
    val = max(1, round(number * val_share))
    if number <= val + test:
        raise UserError(
            f"{where}: {number} networks or runs are too few to split into train, val and test; "
            "add more"
        )
    order = np.random.default_rng(seed).permutation(number).tolist()
    parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
    return {split: [items[i] for i in sorted(parts[split])] for split in SPLITS}


def read_nfn_order(path: pathlib.Path, faithful: bool, number: int) -> list[int]:
    """Reads the order of rows by which NFN split a Small CNN Zoo.

    The published CSV begins with a stray 0, the header of a column without a name. The official
    code reads it as a row, so row 0 comes twice.

    `faithful` drops that line. A `UserError` if it is no such file, or names a row that the zoo of
    `number` networks has not.
    """
    lines = _read(path).decode("utf-8", errors="replace").split()
    if not all(re.fullmatch(r"\d+", line) for line in lines):
        raise UserError(f"{path}: is not a list of row numbers; {_FETCH}")
    rows = [int(line) for line in lines]
    stray = bool(rows) and rows[0] == 0 and rows.count(0) == 2
    listed = rows[1:] if stray else rows
    if len(set(listed)) != len(listed):
        twice = collections.Counter(listed).most_common(1)[0][0]
        raise UserError(f"{path}: lists row {twice} more than once; {_FETCH}")
    if listed and max(listed) >= number:
        raise UserError(
            f"{path}: names row {max(listed)}, but weights.npy has {number} rows; use the splits "
            "file that belongs to this zoo"
        )
    return listed if faithful else rows


def nfn(rows: Sequence[int]) -> dict[str, list[int]]:
    """NFN's split of a Small CNN Zoo's final rows, given in NFN's order.

    The last half is for test; the first half, shuffled by `random.Random(0)`, gives 80 % to train
    and 20 % to validation (Zhou et al., 2023).
    """
    half = int(0.5 * len(rows))
    first = list(rows[:half])
    random.Random(0).shuffle(first)
    cut = int(0.8 * len(first))
    return {"train": first[:cut], "val": first[cut:], "test": list(rows[half:])}


def _read(path: pathlib.Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); {_FETCH}") from error
