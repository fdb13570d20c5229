"""What networks of a zoo draw, a few of each class, and the page that shows it beside the facts."""

import html
import string
from collections.abc import Sequence

import numpy as np

from probegen_jax.report import charts, pictures
from probegen_jax.report.drawings import Drawing
from probegen_jax.report.findings import drawn, names_of_classes, shown
from probegen_jax.report.text import figure, group
from probegen_jax.zoo.zoo import Zoo

_EACH = 8  # networks of a class
_MOST = 12  # classes
_BANDS = 5  # of values, where there are no classes

# A class, or a band of values, and what some of its networks draw.
Group = tuple[str, list[Drawing]]

_PAGE = string.Template("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<title>$title · probegen_jax</title><style>$style</style></head><body>
<header><p class="over">a zoo</p><h1>$title</h1></header><main>
<section><h2>What it holds</h2>$doubts<div class="scroll"><pre>$facts</pre></div></section>
<section><h2>What networks draw</h2>$drawings</section>
</main></body></html>
""")


def groups_of(zoo: Zoo) -> list[Group]:
    """Some networks of each class, or of each band of values; empty where they draw nothing.

    Of many classes, those with most networks; a volume is shown as its middle slice.
    """
    rows = _rows_by_target(zoo)
    drawings = drawn(zoo, [row for _, chosen in rows for row in chosen], sliced=True)
    return [(name, [drawings[row] for row in chosen]) for name, chosen in rows] if drawings else []


def page(zoo: Zoo, facts: Sequence[str], doubts: Sequence[str], groups: Sequence[Group]) -> str:
    """The page, which needs nothing else.

    Args:
      facts: lines that describe the zoo.
      doubts: what looks wrong in how it is read.
    """
    drawings = "".join(
        f"<h3>{html.escape(name)}</h3>"
        + group("planes", (figure(pictures.plane_svg(drawing)) for drawing in drawings))
        for name, drawings in groups
    )
    return _PAGE.substitute(
        title=html.escape(zoo.name),
        style=charts.PAGE_STYLE + charts.STYLE,
        doubts="".join(f"<p><b>{html.escape(each)}</b></p>" for each in doubts),
        facts=html.escape("\n".join(facts)),
        drawings=drawings or "<p>These networks draw nothing.</p>",
    )


def _rows_by_target(zoo: Zoo) -> list[tuple[str, list[int]]]:
    names = names_of_classes(zoo)
    if names is None:
        order = np.argsort(zoo.targets_N, kind="stable")
        bands = [band for band in np.array_split(order, _BANDS) if len(band)]
        ends = [zoo.targets_N[band[[0, -1]]] for band in bands]
        return [
            (f"{shown(low)} to {shown(high)}", _some(band))
            for (low, high), band in zip(ends, bands, strict=True)
        ]
    has_NxC = zoo.targets_N
    if zoo.task == "classification":
        has_NxC = zoo.targets_N[:, None] == np.arange(len(names))
    counts_C = has_NxC.sum(axis=0, dtype=np.int64)
    most = np.sort(np.argsort(-counts_C, kind="stable")[:_MOST])
    return [(names[n], _some(np.flatnonzero(has_NxC[:, n]))) for n in most if counts_C[n]]


def _some(rows: np.ndarray) -> list[int]:
    """At most a few of the rows, spread evenly."""
    places = np.linspace(0, len(rows) - 1, min(_EACH, len(rows)))
    return rows[places.astype(np.int64)].tolist()
