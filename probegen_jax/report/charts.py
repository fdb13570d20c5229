"""Charts as SVG text. Colours are classes, so that a page's style sheet chooses light or dark.

A chart is drawn in its own units and scales to the width it is given. Values that a reader may want
to look up are in the tooltips (`<title>`) of their marks.
"""

import html
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

# What charts need of a style sheet, also for files that stand alone.
STYLE = """
.chart{--ink:#1c2430;--muted:#5c6675;--rule:#dde2ea;--accent:#e2491f;--quiet:#8b95a5;--cell:#e2491f;
--paper:#ffffff;font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
.chart text{fill:var(--muted)}.chart .title{fill:var(--ink);font-weight:600}
.chart .rule{stroke:var(--rule);stroke-width:1}.chart .axis{stroke:var(--quiet);stroke-width:1}
.chart .diagonal{stroke:var(--quiet);stroke-dasharray:4 4}
.chart .line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.chart .dot{fill:var(--accent);fill-opacity:.55}.chart .bar{fill:var(--accent)}
.chart .bar.down{fill:var(--quiet)}
.chart .cell{fill:var(--cell)}.chart .cell-text{fill:var(--ink)}.chart .cell-text.on{fill:#fff}
.chart .probe{fill:var(--accent);stroke:#fff;stroke-width:.7}
.chart .probe.before{fill:#4f8fd6}
.chart .plane{fill:var(--rule)}
.chart .c0{stroke:#e2491f}.chart .c1{stroke:#2f7fd0}.chart .c2{stroke:#2e9e6b}
.chart .c3{stroke:#9a5fd0}.chart .c4{stroke:#c08a14}.chart .c5{stroke:#d0478f}
.chart .c6{stroke:#14a0a8}.chart .c7{stroke:#7a7f88}
@media (prefers-color-scheme:dark){.chart{--ink:#e8ecf3;--muted:#a3adbd;--rule:#2d3645;
--accent:#ff7a52;--quiet:#78849a;--cell:#ff7a52;--paper:#151b26}
.chart .cell-text.on{fill:#180a05}.chart .c1{stroke:#62a8ee}.chart .c2{stroke:#56c592}
.chart .c3{stroke:#bd8cf0}.chart .c4{stroke:#e0b04a}.chart .c7{stroke:#a9afba}}
"""
Number = int | float
_COLORS = 8
_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 40


def svg(
    body: str, label: str, width: Number = _WIDTH, height: Number = _HEIGHT, css: str = "chart"
) -> str:
    """An SVG element around `body`, told to screen readers as `label`."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'class="{css}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(label)}">{body}</svg>'
    )


def standalone(chart: str) -> str:
    """A chart as a file of its own: with its style sheet and a background."""
    start = chart.index(">") + 1
    style = f'<style>{STYLE}</style><rect width="100%" height="100%" style="fill:var(--paper)"/>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{chart[:start]}{style}{chart[start:]}\n'


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
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


class _Axes:
    """Places in a frame with ruled axes."""

    def __init__(
        self,
        xs: tuple[Number, Number],
        ys: tuple[Number, Number],
        *,
        log: bool = False,
        size: tuple[Number, Number] = (_WIDTH, _HEIGHT),
    ):
        self.width, self.height = size
        self.log = log
        self.x_range = xs if xs[1] > xs[0] else (xs[0] - 0.5, xs[0] + 0.5)
        if log:
            ys = (math.log10(ys[0]), math.log10(ys[1]))
        if not ys[1] > ys[0]:
            ys = (ys[0] - 0.05, ys[0] + 0.05)
        margin = 0.05 * (ys[1] - ys[0])
        self.y_range = (ys[0] - margin, ys[1] + margin)

    def x(self, value: Number) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT)

    def y(self, value: Number) -> float:
        low, high = self.y_range
        value = math.log10(value) if self.log else value
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)

    def frame(self, title: str, x_label: str) -> str:
        parts = [text(_LEFT, 17, title, css="title")]
        for value in self._y_ticks():
            y = self.y(value)
            parts.append(
                f'<line class="rule" x1="{_LEFT}" x2="{self.width - _RIGHT}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(text(_LEFT - 7, y + 4, _short(value), "end"))
        bottom = self.height - _BOTTOM
        for value in ticks(*self.x_range):
            parts.append(text(self.x(value), bottom + 16, _short(value), "middle"))
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{self.width - _RIGHT}" y1="{bottom}" '
            f'y2="{bottom}"/>'
        )
        parts.append(text((_LEFT + self.width - _RIGHT) / 2, self.height - 6, x_label, "middle"))
        return "".join(parts)

    def _y_ticks(self) -> list[float]:
        if not self.log:
            return ticks(*self.y_range)
        low, high = (10**bound for bound in self.y_range)
        powers = range(math.floor(self.y_range[0]), math.ceil(self.y_range[1]) + 1)
        for factors in ((1, 2, 5), (1,)):
            found = [f * 10.0**n for n in powers for f in factors if low <= f * 10.0**n <= high]
            if 2 <= len(found) <= 8:
                return found
        return [10**value for value in ticks(*self.y_range)]


def lines(
    title: str,
    series: Sequence[tuple[str, Sequence[Number], Sequence[Number]]],
    x_label: str = "step",
    log: bool = False,
) -> str:
    """Curves in one frame.

    Args:
      title: of the chart.
      series: label, xs and ys of each; values that are not finite (or, on a logarithmic axis, not
        above 0) are left out.
      x_label: of the horizontal axis.
      log: whether the vertical axis is logarithmic.
    """
    kept = []
    for label, xs, ys in series:
        points = [
            (x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y) and (y > 0 or not log)
        ]
        if points:
            kept.append((label, points))
    if not kept:
        return svg(text(_LEFT, 17, title, css="title") + text(_LEFT, 60, "no values"), title)
    every = [point for _, points in kept for point in points]
    axes = _Axes(
        (min(x for x, _ in every), max(x for x, _ in every)),
        (min(y for _, y in every), max(y for _, y in every)),
        log=log,
    )
    parts = [axes.frame(title, x_label)]
    for n, (label, points) in enumerate(kept):
        places = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
        if len(points) == 1:
            places += f" {axes.x(points[0][0]) + 4:.1f},{axes.y(points[0][1]):.1f}"
        last = f"{label}: {_short(points[-1][1])} at {x_label} {_short(points[-1][0])}"
        parts.append(
            f'<polyline class="line c{n % _COLORS}" points="{places}">'
            f"<title>{html.escape(last)}</title></polyline>"
        )
    if 1 < len(kept) <= _COLORS:
        parts.append(_legend([label for label, _ in kept]))
    summary = "; ".join(f"{label} ends at {_short(points[-1][1])}" for label, points in kept)
    return svg("".join(parts), f"{title} against {x_label}: {summary}")


def _legend(labels: Sequence[str]) -> str:
    parts, x = [], _WIDTH - _RIGHT
    for n, label in reversed(list(enumerate(labels))):
        shown = label if len(label) <= 24 else label[:23] + "…"
        x -= 7.2 * len(shown) + 4
        parts.append(text(x, 17, shown))
        x -= 20
        ends = f'x1="{x + 2:.1f}" x2="{x + 15:.1f}" y1="13" y2="13"'
        parts.append(f'<line class="line c{n % _COLORS}" {ends}/>')
        x -= 4
    return "".join(parts) if x > _LEFT + 130 else ""


def scatter(
    title: str,
    predicted_N: Float[np.ndarray, " N"],
    true_N: Float[np.ndarray, " N"],
    most: int = 1500,
) -> str:
    """Predicted against true values, with the diagonal; at most `most` points, evenly chosen."""
    chosen = np.unique(np.linspace(0, len(true_N) - 1, min(most, len(true_N))).astype(int))
    predicted_N, true_N = predicted_N[chosen], true_N[chosen]
    finite = np.isfinite(predicted_N)
    predicted_N, true_N = predicted_N[finite], true_N[finite]
    if not len(true_N):
        return svg(text(_LEFT, 17, title, css="title") + text(_LEFT, 60, "no finite values"), title)
    size = (_WIDTH, 400)
    least, most_true = float(true_N.min()), float(true_N.max())
    margin = 0.03 * (most_true - least)
    axes = _Axes(
        (least - margin, most_true + margin),
        (float(predicted_N.min()), float(predicted_N.max())),
        size=size,
    )
    parts = [axes.frame(title, "true value")]
    low = max(axes.x_range[0], axes.y_range[0])
    high = min(axes.x_range[1], axes.y_range[1])
    if high > low:
        parts.append(
            f'<line class="diagonal" x1="{axes.x(low):.1f}" y1="{axes.y(low):.1f}" '
            f'x2="{axes.x(high):.1f}" y2="{axes.y(high):.1f}"/>'
        )
    parts += [
        f'<circle class="dot" cx="{axes.x(float(t)):.1f}" cy="{axes.y(float(p)):.1f}" r="3.2">'
        f"<title>true {t:.3f}, predicted {p:.3f}</title></circle>"
        for t, p in zip(true_N, predicted_N, strict=True)
    ]
    return svg("".join(parts), f"{title}, {len(true_N)} networks", *size)


def confusion(title: str, counts_CxC: Int[np.ndarray, "C C"]) -> str:
    """Counts of networks by true class (row) and predicted class (column)."""
    classes = len(counts_CxC)
    cell = max(14.0, min(34.0, 400 / classes))
    left, top = 46.0, 52.0
    shares = counts_CxC / np.maximum(counts_CxC.sum(axis=1, keepdims=True), 1)
    numbered = classes <= 20
    parts = [text(left, 17, title, css="title"), text(left, 36, "predicted class →  (rows: true)")]
    for row in range(classes):
        y = top + row * cell
        if numbered:
            parts.append(text(left - 8, y + cell / 2 + 4, str(row), "end"))
            below = top + classes * cell + 16
            parts.append(text(left + (row + 0.5) * cell, below, str(row), "middle"))
        for column in range(classes):
            x, count, share = left + column * cell, counts_CxC[row, column], shares[row, column]
            parts.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" '
                f'height="{cell - 1:.1f}" rx="2" fill-opacity="{0.06 + 0.94 * share:.3f}">'
                f"<title>true {row}, predicted {column}: {count}</title></rect>"
            )
            if numbered and count:
                css = "cell-text on" if share > 0.5 else "cell-text"
                parts.append(text(x + cell / 2 - 0.5, y + cell / 2 + 4, str(count), "middle", css))
    right = int(np.trace(counts_CxC))
    size = (left + classes * cell + 14, top + classes * cell + 26)
    return svg(
        "".join(parts),
        f"{title}: {right} of {int(counts_CxC.sum())} networks on the diagonal",
        *size,
    )


def bars(title: str, values_P: Float[np.ndarray, " P"], x_label: str) -> str:
    """One bar for each probe, the largest first; values below 0 in a quiet colour."""
    order = np.argsort(-values_P, kind="stable")
    low, high = min(0.0, float(values_P.min())), max(0.0, float(values_P.max()))
    axes = _Axes((0.0, float(len(order))), (low, high))
    parts = [axes.frame(title, x_label)]
    zero = axes.y(0.0)
    for place, probe in enumerate(order):
        value = float(values_P[probe])
        left, right, y = axes.x(place), axes.x(place + 1), axes.y(value)
        css = "bar" if value >= 0 else "bar down"
        parts.append(
            f'<rect class="{css}" x="{left:.1f}" y="{min(y, zero):.1f}" '
            f'width="{max(0.6, (right - left) * 0.8):.1f}" height="{max(0.5, abs(zero - y)):.1f}">'
            f"<title>probe {probe}: {value:+.4f}</title></rect>"
        )
    return svg(
        "".join(parts),
        f"{title}: most for probe {order[0]}, {values_P[order[0]]:+.4f}, "
        f"least for probe {order[-1]}, {values_P[order[-1]]:+.4f}",
    )


def histogram(title: str, before: Float[np.ndarray, " P"], after: Float[np.ndarray, " P"]) -> str:
    """Where values lay before (line 2) and after (line 1) training, as shares of them."""
    edges = np.histogram_bin_edges(np.concatenate([before, after]), 24)
    centers = ((edges[1:] + edges[:-1]) / 2).tolist()
    series = [
        (label, centers, (np.histogram(values, edges)[0] / len(values)).tolist())
        for label, values in (("after", after), ("before", before))
    ]
    return lines(title, series, x_label="coordinate")


def _short(value: Number) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
