"""Classes in a CSV of targets: how they are called, and networks that have several of them."""

import math
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Int8

from probegen_jax.errors import UserError

_LONGEST = 200  # letters in the name of a class
_BETWEEN = re.compile(r"[|;]")  # classes of a network
_HAS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


def name_of(text: str) -> str:
    """The name of a class as a cell has it; a `ValueError` if it can be none."""
    name = text.strip()
    if not name or len(name) > _LONGEST or not name.isprintable():
        raise ValueError(name)
    return name


def in_order(names: Collection[str], path: pathlib.Path) -> tuple[str, ...]:
    """Names of classes in the order of their numbers, if all are numbers, else by name."""
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        numbers = {}
    if not numbers or not all(map(math.isfinite, numbers.values())):
        return tuple(sorted(names))
    twins: dict[float, str] = {}
    for name in sorted(names):
        if twins.setdefault(numbers[name], name) != name:
            both = f"{twins[numbers[name]]!r} and {name!r}"
            raise UserError(f"{path}: the targets {both} are the same number; write them alike")
    return tuple(sorted(names, key=numbers.__getitem__))


class Several:
    """Reads which classes each network has, maybe several or none.

    They stand in the column `target`, with `|` or `;` between them. Where there is no such column,
    every column but `path` and `split` is a class: 1 (or true) in it says that a network has it, 0
    (or false) that it has not.
    """

    def __init__(self, columns: Sequence[str], path: pathlib.Path, num_outputs: int | None):
        """A reader for a CSV; with `num_outputs`, classes are counted from 0 in `target`."""
        self._path, self._number = path, num_outputs
        self._columns: tuple[str, ...] = ()
        if "target" in columns:
            return
        self._columns = tuple(name for name in columns if name not in ("path", "split"))
        if not self._columns:
            raise UserError(
                f"{path}: has no column 'target', and none for a class; it needs "
                "path,target[,split], or path,CLASS,CLASS,…[,split]"
            )
        for name in self._columns:
            try:
                name_of(name)
            except ValueError:
                told = f"column {columns.index(name) + 1} has no name that a class can have"
                raise UserError(f"{path}: {told}; name it, or delete it") from None
            if self._columns.count(name) > 1:
                raise UserError(f"{path}: has two columns {name!r}; give a class one column")
        if num_outputs not in (None, len(self._columns)):
            raise UserError(
                f"{path}: has columns for {len(self._columns)} classes, but num_classes is "
                f"{num_outputs}; leave it out"
            )

    def read(self, row: Mapping[str, str | None], where: str) -> frozenset[str]:
        """The classes of a network; a `UserError` if its line does not say them."""
        if not self._columns:
            return self._in_cell(row["target"], where)
        has = {name: _HAS.get((row[name] or "").strip().lower()) for name in self._columns}
        for name in (name for name, known in has.items() if known is None):
            what = f"{row[name]!r} in the column {name!r} is neither 0 nor 1"
            raise UserError(
                f"{where}: {what}; correct it, or give all classes in one column 'target', with | "
                "between them"
            )
        return frozenset(name for name, known in has.items() if known)

    def _in_cell(self, text: str | None, where: str) -> frozenset[str]:
        if text is None:
            raise UserError(f"{where}: has no target; add one, or delete the line")
        try:
            names = frozenset(map(name_of, _BETWEEN.split(text) if text.strip() else ()))
        except ValueError:
            raise UserError(
                f"{where}: target {text!r} is not names of classes with | between them; correct "
                "it, or delete the line"
            ) from None
        if self._number is not None:
            for name in names:
                if not (name.isdecimal() and int(name) < self._number):
                    raise UserError(
                        f"{where}: {name!r} is not a class number from 0 to {self._number - 1}; "
                        "correct it, or leave num_classes out"
                    )
            return frozenset(str(int(name)) for name in names)
        return names

    def table(
        self, targets: Sequence[frozenset[str]]
    ) -> tuple[Int8[np.ndarray, "N C"], tuple[str, ...] | None]:
        """Classes of all networks as rows of 0 and 1, and what each column is called.

        Classes that are counted have no names.
        """
        if self._columns:
            names = self._columns
        elif self._number is not None:
            names = tuple(map(str, range(self._number)))
        else:
            names = in_order(frozenset().union(*targets), self._path)
        if not names:
            raise UserError(f"{self._path}: no network has any class, so there is nothing to learn")
        place = {name: n for n, name in enumerate(names)}
        rows_NxC = np.zeros((len(targets), len(names)), np.int8)
        for row, target in zip(rows_NxC, targets, strict=True):
            row[[place[name] for name in target]] = 1
        counted = self._number is not None and not self._columns
        return rows_NxC, None if counted else names
