"""The plot of the reproduction grid."""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np
from results_table import Row

from probegen_jax.method.generators.registry import METHODS
from probegen_jax.report.figures import panels, save

_COLORS = ("#e4572e", "#7a8b99", "#c9b458", "#8a6fb0")


def draw(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Bars of the reproduction grid, a panel for each zoo, the published figures beside.

    Args:
      path: of the PNG.
      rows: of `results.csv`, with text as there; those that are not done make no bar.
    """
    done = [row for row in rows if row["status"] == "done"]
    zoos = list(dict.fromkeys(row["zoo"] for row in done))
    colors = dict(zip(METHODS, itertools.cycle(_COLORS)))
    figure, all_axes = panels(len(zoos), 3.4, 3.2)
    for axes, zoo in zip(all_axes, zoos, strict=True):
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
