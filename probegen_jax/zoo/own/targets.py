"""The CSV of targets of a zoo of the user's own."""

import codecs
import csv
import dataclasses
import io
import pathlib
from typing import Any, Literal

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.zoo.own import classes
from probegen_jax.zoo.zoo import SPLITS

Task = Literal["classification", "multilabel", "regression"]

# More networks than this, all of another class, are of no class.
_ALL_DIFFERENT = 20
_COLUMNS = ("path", "target", "split")
_ROUNDING = 1e-3  # what rounding to float32 may take from values, of the range of them all


@dataclasses.dataclass(frozen=True)
class Listing:
    """What the CSV of targets says, a row per network.

    Attributes:
      paths: of the files, from the folder of networks.
      targets: class (int32) or value (float32); where a network may have several classes, a row of
        0 and 1 each (int8).
      splits: "train", "val" or "test" of each network; None if the CSV does not say.
      class_names: what the CSV calls each class; None if classes are just numbered from 0.
    """

    paths: list[str]
    targets: np.ndarray
    splits: list[str] | None
    class_names: tuple[str, ...] | None = None


def read_csv(path: pathlib.Path, task: Task, num_outputs: int | None = None) -> Listing:
    """Reads a CSV of targets; classes are counted from 0 if `num_outputs` is given, else named.

    Cells are apart by commas, semicolons or tabs, whichever its first line has most of; where it is
    not commas, one may stand in a value for the decimal point. Several classes of a network stand
    in one cell, with `|` or `;` between them; or every class has a column of 0 and 1.
    """
    try:
        columns, rows, separator = _read(path)
    except (OSError, UnicodeError, csv.Error) as error:
        what = f"cannot be read ({error})"
        raise UserError(f"{path}: {what}; give a CSV of targets, in UTF-8") from error
    several = classes.Several(columns, path, num_outputs) if task == "multilabel" else None
    for column in ("path",) if several else ("path", "target"):
        if column not in columns:
            raise UserError(f"{path}: has no column {column!r}; it needs path,target[,split]")
    if not rows:
        raise UserError(f"{path}: lists no networks; give one a line, as path,target")
    named = task == "classification" and num_outputs is None
    if named:
        take, low, high, kind = classes.name_of, "", "\U0010ffff", "the name of a class"
    elif task == "classification":
        take, low, high = int, 0, num_outputs - 1
        kind = f"a class number from 0 to {high}"
    else:
        high, kind = float(np.finfo(np.float32).max), "a finite number"
        take, low = float if separator == "," else _with_comma, -high

    def parse(row: dict[str, str], where: str) -> Any:
        try:
            target = take(row["target"])
        except (TypeError, ValueError, AttributeError):
            target = None  # told below
        if target is None or not low <= target <= high:
            what = f"target {row['target']!r} of {row['path']} is not {kind}"
            raise UserError(f"{where}: {what}; correct it, or delete the line")
        return target

    seen: dict[str, int] = {}
    targets = []
    for line, row in rows:
        name, where = row["path"], f"{path}: line {line}"
        if not name or "\0" in name:
            raise UserError(f"{where}: {name!r} is no path; give a file's")
        if seen.setdefault(name, line) != line:
            raise UserError(
                f"{path}: {name} is in line {seen[name]} and in line {line}; list it once"
            )
        targets.append(several.read(row, where) if several else parse(row, where))
        if "split" in columns and row["split"] not in SPLITS:
            raise UserError(f"{where}: split is {row['split']!r}; use {', '.join(SPLITS)}")
    of_split = [row["split"] for _, row in rows] if "split" in columns else None
    if several:
        classes_NxC, names = several.table(targets)
        return Listing(list(seen), classes_NxC, of_split, names)
    if named:
        names = classes.in_order(set(targets), path)
        if len(names) == len(targets) > _ALL_DIFFERENT:
            raise UserError(
                f"{path}: all {len(targets):,} networks have targets of their own, from "
                f"{names[0]!r} to {names[-1]!r}, so that there are no classes to learn; if they "
                "are values, give --config.task=regression"
            )
        place = {name: n for n, name in enumerate(names)}
        classes_N = np.asarray([place[target] for target in targets], np.int32)
        return Listing(list(seen), classes_N, of_split, names)
    if task == "regression":
        return Listing(list(seen), as_float32(np.asarray(targets, np.float64), str(path)), of_split)
    return Listing(list(seen), np.asarray(targets, np.int32), of_split)


def as_float32(targets_N: np.ndarray, where: str) -> np.ndarray:
    """Values as a zoo has them; a `UserError` if float32 cannot tell them apart any more."""
    exact_N = np.asarray(targets_N, np.float64)
    if not len(exact_N):
        return exact_N.astype(np.float32)
    with np.errstate(over="ignore"):  # told here
        rounded_N, spread = exact_N.astype(np.float32), np.ptp(exact_N)
    lost = np.abs(rounded_N - exact_N).max()
    if not np.isfinite(rounded_N).all() or 0 < _ROUNDING * spread < lost:
        raise UserError(
            f"{where}: the targets, from {exact_N.min():.9g} to {exact_N.max():.9g}, are not to be "
            "told apart in float32; subtract what they have in common, or use another unit"
        )
    return rounded_N


def _read(path: pathlib.Path) -> tuple[list[str], list[tuple[int, dict[str, str]]], str]:
    """Names of the columns, rows with their lines, and what stands between cells."""
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # from spreadsheets
    file = io.StringIO(data.decode("utf-16" if wide else "utf-8-sig"), newline="")
    header, before = file.readline(), 0
    if header.startswith("sep="):  # a spreadsheet's hint
        header, before = file.readline(), 1
    separator = max(",;\t", key=header.count)
    names = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
    names = [name.strip() for name in names]
    columns = [name.lower() if name.lower() in _COLUMNS else name for name in names]
    reader = csv.DictReader(file, columns, delimiter=separator, skipinitialspace=True)
    rows = [(reader.line_num + before + 1, row) for row in reader if any(row.values())]
    return columns, rows, separator


def _with_comma(text: str) -> float:
    return float(text.replace(",", ".", 1))
