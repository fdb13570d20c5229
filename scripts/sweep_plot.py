"""The curves of a sweep."""

import pathlib
from collections.abc import Sequence
from typing import Any

from probegen_jax.method.readouts.registry import DEFAULT
from probegen_jax.report.figures import panels, save


def draw(path: pathlib.Path, rows: Sequence[dict[str, str]]) -> None:
    """Draws what is done against probes, arithmetic and, if they differ, training networks.

    A method with one number of probes is a dashed line across the first panel.
    """
    done = [row for row in rows if row["status"] == "done"]
    most = max(int(row["train_networks"]) for row in done)
    titles = ["probes", "MFLOP a prediction"]
    if len({row["train_networks"] for row in done}) > 1:
        titles.append("training networks")
    figure, axes = panels(len(titles), 4.2, 3.6)
    by_probes, by_mflop, *by_networks = axes
    names = list(dict.fromkeys(_label(row) for row in done))
    for number, name in enumerate(names):
        mine = [row for row in done if _label(row) == name]
        style = {"color": f"C{number}", "marker": "o", "ms": 3, "capsize": 2, "label": name}
        full = [row for row in mine if int(row["train_networks"]) == most]
        if len({row["num_probes"] for row in full}) == 1:
            score = float(full[0]["test_mean"])
            by_probes.axhline(score, color=f"C{number}", ls="--", lw=1, label=name)
        else:
            _curve(by_probes, full, "num_probes", style)
        _curve(by_mflop, full, "mflop", style)
        at = max((row["num_probes"] for row in mine if row not in full), default="")
        for panel in by_networks:
            same = [row for row in mine if row["num_probes"] == at]
            _curve(panel, same, "train_networks", style)
    for panel, title in zip(axes, titles, strict=True):
        panel.set_xscale("log")
        panel.set_xlabel(title)
        panel.grid(alpha=0.3)
    by_probes.set_ylabel(f"test {done[0]['metric'].replace('_', ' ')}")
    by_probes.legend(fontsize=7)
    figure.tight_layout()
    save(figure, path)


def _label(row: dict[str, str]) -> str:
    parts = [row["method"], *([row["readout"]] if row["readout"] != DEFAULT else [])]
    return ", ".join(filter(None, [*parts, row["settings"]]))


def _curve(axes: Any, rows: Sequence[dict[str, str]], key: str, style: dict[str, Any]) -> None:
    """One method's scores against a column."""
    points = sorted(
        (float(row[key]), float(row["test_mean"]), float(row["test_std"])) for row in rows
    )
    if points:
        x, y, error = zip(*points, strict=True)
        axes.errorbar(x, y, yerr=error, lw=1, **style)
