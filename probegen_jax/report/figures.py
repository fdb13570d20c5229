"""The pictures of a run folder. The only module that imports matplotlib."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from probegen_jax.files import replacing
from probegen_jax.report import pictures
from probegen_jax.report.drawings import Drawing
from probegen_jax.report.findings import Series

_ACCENT = "#ff5a36"


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG: it is whole or not there."""
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")


def panels(number: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with panels in a row, and the panels; sizes in inches, the width for each panel."""
    figure = Figure(figsize=(width * number, height))
    return figure, [figure.add_subplot(1, number, n + 1) for n in range(number)]


def draw_probes(
    path: pathlib.Path, probes: Float[np.ndarray, "P ..."], planes: Sequence[Drawing]
) -> None:
    """The probes: images as such, points over what networks draw, else how they are spread.

    Args:
      probes: of one seed, of images at most 128 are drawn.
      planes: what a few networks draw, if they draw anything.
    """
    if probes.ndim == 4:
        sheet = pictures.sheet(probes[:128])
        on_white = sheet[..., :-1] + 1 - sheet[..., -1:]
        figure = Figure(figsize=(10, 10 * sheet.shape[0] / sheet.shape[1]))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(on_white.squeeze(), cmap="gray", interpolation="nearest")
        axes.set_axis_off()
    elif planes:
        figure = draw_networks(planes, probes)
    else:
        figure, all_axes = panels(probes.shape[1], 2.6, 2.4)
        for d, axes in enumerate(all_axes):
            axes.hist(probes[:, d], bins=24, color=_ACCENT)
            axes.set_title(f"coordinate {d}", fontsize=9)
    save(figure, path)


def draw_networks(
    drawings: Sequence[Drawing], probes: Float[np.ndarray, "P D"] | None = None
) -> Figure:
    """What networks draw, a column each and a row for each view, with probes over it if given."""
    views = len(drawings[0].views)
    figure = Figure(figsize=(2.1 * len(drawings), 2.4 * views))
    reach = 1.0 if probes is None else pictures.reach_of(probes)
    for n, drawing in enumerate(drawings):
        for m, view in enumerate(drawing.views):
            axes = figure.add_subplot(views, len(drawings), m * len(drawings) + n + 1)
            if view.values.ndim == 3:
                right, bottom = pictures.half_sides(view.values)
                extent = (-right, right, bottom, -bottom)
                axes.imshow(view.values.squeeze(), cmap="gray", extent=extent)
                right, bottom = (right, bottom) if probes is None else (reach, reach)
                axes.set(xlim=(-right, right), ylim=(bottom, -bottom), yticks=[-1, 1])
                if probes is not None:
                    points = probes[:, view.axes]
                    axes.scatter(*points.T, s=9, c=_ACCENT, edgecolors="white", linewidths=0.4)
            else:
                at = np.linspace(-1, 1, len(view.values))
                axes.plot(at, view.values, lw=1)
                axes.set(xlim=(-reach, reach))
                if probes is not None:
                    heights = np.interp(probes[:, 0], at, view.values[:, 0])
                    axes.scatter(probes[:, 0], heights, s=9, c=_ACCENT, linewidths=0, zorder=3)
            axes.set(xticks=[-1, 1])
            title = [f"a network with target {drawing.target}"] if m == 0 else []
            axes.set_title("\n".join([*title, view.title] if view.title else title), fontsize=9)
            axes.tick_params(labelsize=6, length=2)
            axes.set_facecolor("#e8e8ec")
    return figure


def draw_groups(groups: Sequence[tuple[str, Sequence[Drawing]]]) -> Figure:
    """Drawings of one view each, a row for each group with its name before it."""
    columns = max(len(drawings) for _, drawings in groups)
    figure = Figure(figsize=(0.9 * columns, 0.95 * len(groups)))
    for n, (name, drawings) in enumerate(groups):
        for m, drawing in enumerate(drawings):
            axes = figure.add_subplot(len(groups), columns, n * columns + m + 1)
            (view,) = drawing.views
            if view.values.ndim == 3:
                image = view.values[..., 0] if view.values.shape[-1] == 1 else view.values
                axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            else:
                axes.plot(np.linspace(-1, 1, len(view.values)), view.values, lw=0.8)
            axes.set(xticks=[], yticks=[])
            if m == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def draw_curves(path: pathlib.Path, curves: Mapping[str, tuple[str, Sequence[Series]]]) -> None:
    """`Findings.curves` in a panel each, a line per seed; "loss" gets a logarithmic axis."""
    figure, all_axes = panels(len(curves), 4.0, 3.0)
    for axes, (name, (title, series)) in zip(all_axes, curves.items(), strict=True):
        for label, steps, values in series:
            axes.plot(steps, values, lw=1, label=label)
        axes.set(xlabel="step", title=title, yscale="log" if name == "loss" else "linear")
        axes.grid(alpha=0.3)
        if 1 < len(series) <= 10:
            axes.legend(fontsize=7)
    save(figure, path)
