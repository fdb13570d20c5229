"""The curves of a sweep."""

import pathlib
from collections.abc import Sequence
from typing import Any

from probegen_jax.method.readouts.registry import DEFAULT
from probegen_jax.report.figures import panels, save

# Of each panel, by its title.
_COLUMNS = {
    "probes": "num_probes",
    "MFLOP a prediction": "mflop",
    "training networks": "train_networks",
}


def draw(path: pathlib.Path, rows: Sequence[dict[str, str]]) -> None:
    """Draws what is done against probes, arithmetic and training networks, those that differ.

    A method with one number of probes is a dashed line across the panel of probes.
    """
    done = [row for row in rows if row["status"] == "done"]
    most = max(int(row["train_networks"]) for row in done)
    by_name: dict[str, list[dict[str, str]]] = {}
    for row in done:
        by_name.setdefault(_label(row), []).append(row)
    whole = {
        name: [row for row in mine if int(row["train_networks"]) == most]
        for name, mine in by_name.items()
    }
    titles = []
    if len({row["train_networks"] for row in done}) > 1:
        titles = ["training networks"]
    if not titles or any(_numbers(full) > 1 for full in whole.values()):
        titles = ["probes", "MFLOP a prediction", *titles]
    figure, axes = panels(len(titles), 4.2, 3.6)
    for title, panel in zip(titles, axes, strict=True):
        for number, (name, mine) in enumerate(by_name.items()):
            style = {"color": f"C{number}", "marker": "o", "ms": 3, "capsize": 2, "label": name}
            full = whole[name]
            if title == "training networks":
                at = max((row["num_probes"] for row in mine if row not in full), default="")
                _curve(panel, [row for row in mine if row["num_probes"] == at], title, style)
            elif title == "probes" and _numbers(full) == 1:
                score = float(full[0]["test_mean"])
                panel.axhline(score, color=f"C{number}", ls="--", lw=1, label=name)
            else:
                _curve(panel, full, title, style)
        panel.set_xscale("log")
        panel.set_xlabel(title)
        if title != "MFLOP a prediction":
            shown = sorted({x for line in panel.containers for x in line[0].get_xdata()})
            panel.set_xticks(shown, [f"{x:,.0f}" for x in shown])
            panel.minorticks_off()
        panel.grid(alpha=0.3)
    axes[0].set_ylabel(f"test {done[0]['metric'].replace('_', ' ')}")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    save(figure, path)


def _numbers(rows: Sequence[dict[str, str]]) -> int:
    """How many numbers of probes there are."""
    return len({row["num_probes"] for row in rows})


def _label(row: dict[str, str]) -> str:
    parts = [row["method"], *([row["readout"]] if row["readout"] != DEFAULT else [])]
    return ", ".join(filter(None, [*parts, row["settings"]]))


def _curve(axes: Any, rows: Sequence[dict[str, str]], title: str, style: dict[str, Any]) -> None:
    """One method's scores against the column of a panel."""
    key = _COLUMNS[title]
    points = sorted(
        (float(row[key]), float(row["test_mean"]), float(row["test_std"])) for row in rows
    )
    if points:
        x, y, error = zip(*points, strict=True)
        axes.errorbar(x, y, yerr=error, lw=1, **style)
