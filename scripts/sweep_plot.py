"""The curves of a sweep."""

import pathlib
from collections.abc import Sequence
from typing import Any

from probegen_jax.method.readouts.registry import DEFAULT
from probegen_jax.report.figures import panels, save


def draw(path: pathlib.Path, rows: Sequence[dict[str, str]]) -> None:
    """The curves of what is done: against probes, arithmetic and training networks.

    A method with one number of probes is a dashed line across the first panel.
    """
    done = [row for row in rows if row["status"] == "done"]
    most = max(int(row["train_networks"]) for row in done)
    figure, (by_probes, by_mflop, by_networks) = panels(3, 4.2, 3.6)
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
        _curve(
            by_networks, [row for row in mine if row["num_probes"] == at], "train_networks", style
        )
    titles = ("probes", "MFLOP a prediction", "training networks")
    for axes, title in zip((by_probes, by_mflop, by_networks), titles, strict=True):
        axes.set_xscale("log")
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
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
