"""Charts as SVG text. Colours are classes, so that a page's style sheet chooses light or dark.

A chart is drawn in its own units and scales to the width it is given. Values that a reader may want
to look up are in the tooltips (`<title>`) of their marks.
"""

import html
import importlib.resources
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

# Of the style sheet: what only the page needs, and what charts need, also in files of their own.
_SHEET = importlib.resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
PAGE_STYLE, STYLE = _SHEET.split("/* Charts, also in files of their own */\n")
Number = int | float
Numbers = Sequence[Number]
_COLORS = 8
_MOST_POINTS = 1500
_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT = 52, _WIDTH - 14  # ends of the horizontal axis
_TOP, _BOTTOM = 30, 40  # margins


def svg(body: str, label: str, width: Number = _WIDTH, height: Number = _HEIGHT) -> str:
    """An SVG element around `body`, which screen readers read as `label`."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(label)}">{body}</svg>'
    )


def standalone(chart: str) -> str:
    """A chart as a file of its own: with its style sheet and a background."""
    start = chart.index(">") + 1
    style = f'<style>\n{STYLE}</style><rect width="100%" height="100%" style="fill:var(--paper)"/>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{chart[:start]}{style}{chart[start:]}\n'


def mark(tag: str, tooltip: str = "", **attributes: Number | str) -> str:
    """An SVG element with a tooltip, if there is one.

    Args:
      attributes: `class_` is written as class, `fill_opacity` as fill-opacity; floats have one
        decimal.
    """
    written = "".join(
        f' {name.strip("_").replace("_", "-")}="'
        + (f'{value:.1f}"' if isinstance(value, float) else f'{html.escape(str(value))}"')
        for name, value in attributes.items()
    )
    inside = f"><title>{html.escape(tooltip)}</title></{tag}>" if tooltip else "/>"
    return f"<{tag}{written}{inside}"


def text(x: Number, y: Number, content: str, anchor: str = "start", css: str = "") -> str:
    """A line of text with its baseline at (x, y)."""
    kind = f' class="{css}"' if css else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{html.escape(content)}</text>'
    )


def ticks(low: Number, high: Number, most: int = 5) -> list[float]:
    """Round values between `low` and `high`, at most `most` + 1 of them, for an axis."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


class _Axes:
    """Places in a frame with ruled axes."""

    def __init__(self, xs: Numbers, ys: Numbers, *, log: bool = False, height: int = _HEIGHT):
        self.height, self.log = height, log
        self.x_range = _spread(min(xs), max(xs), 0.5)
        low, high = min(ys), max(ys)
        low, high = _spread(*((math.log10(low), math.log10(high)) if log else (low, high)), 0.05)
        margin = 0.05 * (high - low)
        self.y_range = (low - margin, high + margin)

    def x(self, value: Number) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)

    def y(self, value: Number) -> float:
        low, high = self.y_range
        value = math.log10(value) if self.log else value
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)

    def frame(self, title: str, x_label: str) -> str:
        bottom = self.height - _BOTTOM
        parts = [text(_LEFT, 17, title, css="title")]
        for value in self._y_ticks():
            y = self.y(value)
            parts.append(mark("line", class_="rule", x1=_LEFT, x2=_RIGHT, y1=y, y2=y))
            parts.append(text(_LEFT - 7, y + 4, _short(value), "end"))
        for value in ticks(*self.x_range):
            parts.append(text(self.x(value), bottom + 16, _short(value), "middle"))
        parts.append(mark("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=bottom, y2=bottom))
        parts.append(text((_LEFT + _RIGHT) / 2, self.height - 6, x_label, "middle"))
        return "".join(parts)

    def _y_ticks(self) -> list[float]:
        if not self.log:
            return ticks(*self.y_range)
        low, high = (10**bound for bound in self.y_range)
        powers = range(math.floor(self.y_range[0]), math.ceil(self.y_range[1]) + 1)
        for factors in ((1, 2, 5), (1,)):
            chosen = [f * 10.0**n for n in powers for f in factors if low <= f * 10.0**n <= high]
            if 2 <= len(chosen) <= 8:
                return chosen
        return [10**value for value in ticks(*self.y_range)]


def _spread(low: Number, high: Number, by: float) -> tuple[Number, Number]:
    """A range that is not empty."""
    return (low, high) if high > low else (low - by, low + by)


def lines(
    title: str,
    series: Sequence[tuple[str, Numbers, Numbers]],
    x_label: str = "step",
    log: bool = False,
) -> str:
    """Curves in one frame.

    Args:
      series: label, xs and ys of each; values that are not finite (or, on a logarithmic axis, not
        above 0) are left out.
      log: whether the vertical axis is logarithmic.
    """
    kept = []
    for label, xs, ys in series:
        pairs = zip(xs, ys, strict=True)
        points = [(x, y) for x, y in pairs if math.isfinite(y) and (y > 0 or not log)]
        if points:
            kept.append((label, points))
    if not kept:
        return _empty(title, "no values")
    all_xs, all_ys = zip(*(point for _, points in kept for point in points), strict=True)
    axes = _Axes(all_xs, all_ys, log=log)
    parts = [axes.frame(title, x_label)]
    for n, (label, points) in enumerate(kept):
        (last_x, last_y), css = points[-1], f"line c{n % _COLORS}"
        corners = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
        if len(points) == 1:
            corners += f" {axes.x(last_x) + 4:.1f},{axes.y(last_y):.1f}"
        tooltip = f"{label}: {_short(last_y)} at {x_label} {_short(last_x)}"
        parts.append(mark("polyline", tooltip, class_=css, points=corners))
    if 1 < len(kept) <= _COLORS:
        parts.append(_legend([label for label, _ in kept]))
    summary = "; ".join(f"{label} ends at {_short(points[-1][1])}" for label, points in kept)
    return svg("".join(parts), f"{title} against {x_label}: {summary}")


def _empty(title: str, words: str) -> str:
    return svg(text(_LEFT, 17, title, css="title") + text(_LEFT, 60, words), title)


def _legend(labels: Sequence[str]) -> str:
    parts, x = [], _RIGHT
    for n, label in reversed(list(enumerate(labels))):
        shown = label if len(label) <= 24 else label[:23] + "…"
        x -= 7.2 * len(shown) + 4
        parts.append(text(x, 17, shown))
        x -= 20
        css = f"line c{n % _COLORS}"
        parts.append(mark("line", class_=css, x1=x + 2, x2=x + 15, y1=13, y2=13))
        x -= 4
    return "".join(parts) if x > _LEFT + 130 else ""


def scatter(
    title: str, predicted_N: Float[np.ndarray, " N"], true_N: Float[np.ndarray, " N"]
) -> str:
    """Predicted against true values, with the diagonal; of many points, some, evenly chosen."""
    number = min(_MOST_POINTS, len(true_N))
    chosen = np.unique(np.linspace(0, len(true_N) - 1, number).astype(int))
    chosen = chosen[np.isfinite(predicted_N[chosen])]
    if not len(chosen):
        return _empty(title, "no finite values")
    predicted, true = predicted_N[chosen].tolist(), true_N[chosen].tolist()
    margin, height = 0.03 * (max(true) - min(true)), 400
    axes = _Axes((min(true) - margin, max(true) + margin), predicted, height=height)
    parts = [axes.frame(title, "true value")]
    low = max(axes.x_range[0], axes.y_range[0])
    high = min(axes.x_range[1], axes.y_range[1])
    if high > low:
        ends = {"x1": axes.x(low), "y1": axes.y(low), "x2": axes.x(high), "y2": axes.y(high)}
        parts.append(mark("line", class_="diagonal", **ends))
    for t, p in zip(true, predicted, strict=True):
        tooltip = f"true {t:.4g}, predicted {p:.4g}"
        parts.append(mark("circle", tooltip, class_="dot", cx=axes.x(t), cy=axes.y(p), r=3.2))
    return svg("".join(parts), f"{title}, {len(chosen)} networks", _WIDTH, height)


def confusion(
    title: str, counts_CxC: Int[np.ndarray, "C C"], names: Sequence[str] | None = None
) -> str:
    """Counts of networks by true class (row) and predicted class (column), and their names."""
    classes = len(counts_CxC)
    names = names or [str(n) for n in range(classes)]
    cell = max(14.0, min(34.0, 400 / classes))
    left, top = 46.0, 52.0
    shares_CxC = counts_CxC / np.maximum(counts_CxC.sum(axis=1, keepdims=True), 1)
    numbered = classes <= 20
    parts = [text(left, 17, title, css="title"), text(left, 36, "columns: predicted, rows: true")]
    for row in range(classes):
        y = top + row * cell
        if numbered:
            parts.append(text(left - 8, y + cell / 2 + 4, _cut(names[row], 6), "end"))
            below = top + classes * cell + 16
            parts.append(text(left + (row + 0.5) * cell, below, _cut(names[row], 4), "middle"))
        for column in range(classes):
            x, count, share = left + column * cell, counts_CxC[row, column], shares_CxC[row, column]
            tooltip = f"true {names[row]}, predicted {names[column]}: {count}"
            box = {"x": x, "y": y, "width": cell - 1, "height": cell - 1, "rx": 2}
            opacity = f"{0.06 + 0.94 * share:.3f}"
            parts.append(mark("rect", tooltip, class_="cell", **box, fill_opacity=opacity))
            if numbered and count:
                css = "cell-text on" if share > 0.5 else "cell-text"
                parts.append(text(x + cell / 2 - 0.5, y + cell / 2 + 4, str(count), "middle", css))
    label = f"{title}: {np.trace(counts_CxC)} of {counts_CxC.sum()} networks on the diagonal"
    return svg("".join(parts), label, left + classes * cell + 14, top + classes * cell + 26)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def bars(
    title: str,
    values_P: Float[np.ndarray, " P"],
    x_label: str,
    names: Sequence[str] | None = None,
) -> str:
    """One bar for each probe, or each of `names`, the largest first; a quiet colour below 0."""
    names = names or [f"probe {probe}" for probe in range(len(values_P))]
    order = np.argsort(-values_P, kind="stable").tolist()
    values = values_P.tolist()
    axes = _Axes((0.0, float(len(order))), (0.0, *values))
    parts, zero, width = [axes.frame(title, x_label)], axes.y(0.0), axes.x(1) - axes.x(0)
    for rank, probe in enumerate(order):
        x, y, css = axes.x(rank), axes.y(values[probe]), "bar" if values[probe] >= 0 else "bar down"
        size = {"width": max(0.6, width * 0.8), "height": max(0.5, abs(zero - y))}
        tooltip = f"{names[probe]}: {values[probe]:+.4f}"
        parts.append(mark("rect", tooltip, class_=css, x=x, y=min(y, zero), **size))
    most, least = order[0], order[-1]
    return svg(
        "".join(parts),
        f"{title}: most for {names[most]}, {values[most]:+.4f}, "
        f"least for {names[least]}, {values[least]:+.4f}",
    )


def histogram(
    title: str, before_P: Float[np.ndarray, " P"], after_P: Float[np.ndarray, " P"]
) -> str:
    """Where values lay before (line 2) and after (line 1) training, as shares of them."""
    edges = np.histogram_bin_edges(np.concatenate([before_P, after_P]), 24)
    centers = ((edges[1:] + edges[:-1]) / 2).tolist()
    series = [
        (label, centers, (np.histogram(values, edges)[0] / len(values)).tolist())
        for label, values in (("after", after_P), ("before", before_P))
    ]
    return lines(title, series, x_label="coordinate")


def _short(value: Number) -> str:
    if value == 0:
        return "0"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"
