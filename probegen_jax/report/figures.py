"""The pictures of a run folder. The only module that imports matplotlib."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from probegen_jax.files import replacing
from probegen_jax.method.generators.registry import METHODS
from probegen_jax.report import pictures
from probegen_jax.report.findings import Drawing, Series

_ACCENT = "#ff5a36"
_METHOD_COLORS = ("#e4572e", "#7a8b99", "#c9b458", "#8a6fb0")


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG: it is whole or not there."""
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")


def _panels(number: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in a row, and the panels; sizes in inches, the width of each."""
    figure = Figure(figsize=(width * number, height))
    return figure, [figure.add_subplot(1, number, n + 1) for n in range(number)]


def draw_probes(
    path: pathlib.Path, probes: Float[np.ndarray, "P ..."], planes: Sequence[Drawing]
) -> None:
    """The probes: images as such, points over what networks draw, else how they are spread.

    Args:
      path: of the PNG.
      probes: of one seed, of images at most 128 are drawn.
      planes: what a few networks draw, if they draw on a plane; one panel each.
    """
    if probes.ndim == 4:
        sheet = pictures.sheet(probes[:128])
        on_white = sheet[..., :-1] + 1 - sheet[..., -1:]
        figure = Figure(figsize=(10, 10 * sheet.shape[0] / sheet.shape[1]))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(on_white.squeeze(), cmap="gray", interpolation="nearest")
        axes.set_axis_off()
    elif planes:
        reach = pictures.reach_of(probes)
        figure, panels = _panels(len(planes), 2.1, 2.4)
        for axes, plane in zip(panels, planes, strict=True):
            right, bottom = pictures.half_sides(plane.image_HxWxC)
            image = plane.image_HxWxC.squeeze()
            axes.imshow(image, cmap="gray", extent=(-right, right, bottom, -bottom))
            points = probes if plane.grid == "xy" else probes[:, ::-1]
            axes.scatter(*points.T, s=9, c=_ACCENT, edgecolors="white", linewidths=0.4)
            axes.set(xlim=(-reach, reach), ylim=(reach, -reach), xticks=[-1, 1], yticks=[-1, 1])
            axes.set_title(f"a network of target {plane.target}", fontsize=9)
            axes.tick_params(labelsize=6, length=2)
            axes.set_facecolor("#e8e8ec")
    else:
        figure, panels = _panels(probes.shape[1], 2.6, 2.4)
        for d, axes in enumerate(panels):
            axes.hist(probes[:, d], bins=24, color=_ACCENT)
            axes.set_title(f"coordinate {d}", fontsize=9)
    save(figure, path)


def draw_curves(path: pathlib.Path, curves: Mapping[str, tuple[str, Sequence[Series]]]) -> None:
    """Curves against the step, a panel each, a line per seed.

    Args:
      path: of the PNG.
      curves: as `Findings.curves` has them; the one named "loss" gets a logarithmic axis.
    """
    figure, panels = _panels(len(curves), 4, 3)
    for axes, (name, (title, series)) in zip(panels, curves.items(), strict=True):
        for label, steps, values in series:
            axes.plot(steps, values, lw=1, label=label)
        axes.set(xlabel="step", title=title, yscale="log" if name == "loss" else "linear")
        axes.grid(alpha=0.3)
        if 1 < len(series) <= 10:
            axes.legend(fontsize=7)
    save(figure, path)


def draw_grid(path: pathlib.Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Bars of the reproduction grid, a panel for each zoo, the published figures beside.

    Args:
      path: of the PNG.
      rows: of `results.csv`, with text as there; those that are not done make no bar.
    """
    done = [row for row in rows if row["status"] == "done"]
    zoos = list(dict.fromkeys(row["zoo"] for row in done))
    colors = dict(zip(METHODS, itertools.cycle(_METHOD_COLORS)))
    figure, panels = _panels(len(zoos), 3.4, 3.2)
    for axes, zoo in zip(panels, zoos, strict=True):
        shown = [row for row in done if row["zoo"] == zoo]
        means = [float(row["test_mean"]) for row in shown]
        deviations = [float(row["test_std"]) for row in shown]
        positions = range(len(shown))
        errors = deviations if any(deviations) else None
        bar_colors = [colors.get(row["method"], "#404040") for row in shown]
        axes.bar(positions, means, yerr=errors, capsize=3, color=bar_colors)
        published = [float(row["published"] or "nan") for row in shown]
        axes.scatter(positions, published, marker="D", s=30, c="black", zorder=3, label="published")
        for position, mean, deviation in zip(positions, means, deviations, strict=True):
            style = {"textcoords": "offset points", "ha": "center", "fontsize": 7}
            axes.annotate(f"{mean:.3f}", (position, mean + deviation), (0, 3), **style)
        names = [f"{row['method']}\n{row['num_probes']}".replace("_", "\n") for row in shown]
        axes.set_xticks(positions, names, fontsize=7)
        # Zoomed in on the bars' ends, for all are much alike.
        values = [v for v in (*means, *published) if np.isfinite(v)]
        room = max(max(values) - min(values), 0.02)
        axes.set_ylim(min(values) - room / 2 - max(deviations), max(values) + room / 3)
        axes.set_title(f"{zoo}: test {shown[0]['metric'].replace('_', ' ')}", fontsize=9)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        if np.isfinite(published).any():
            axes.legend(fontsize=7)
    save(figure, path)
