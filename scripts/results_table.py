"""Tables of the reproduction grid: `results.csv`, and Markdown made from it.

    python scripts/results_table.py runs/grid/results.csv [MORE.csv …]

prints one Markdown table of `results.csv` files that `scripts/reproduce.py` wrote.
"""

import csv
import io
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from probegen_jax import errors
from probegen_jax.method import published_figures

Row = dict[str, str]

COLUMNS = (
    "zoo",
    "method",
    "num_probes",
    "metric",
    "num_seeds",
    "test_mean",
    "test_std",
    "best_test_mean",
    "best_test_std",
    "ensemble_test",
    "published",
    "published_verified",
    "source",
    "train_networks",
    "seconds",
    "device",
    "date",
    "status",
    "command",
)
NOT_RUN = "not run"
_LATER = "ensemble_test"  # a column that earlier versions did not write
_FIGURES = ("test_mean", "test_std", "best_test_mean", "best_test_std")


def row(zoo: str, config: dict[str, Any], result: dict[str, Any] | None, **others: str) -> Row:
    """One run as a row of `results.csv`.

    Args:
      zoo: the name of its config file.
      config: its settings.
      result: its `result.json`, if it is finished.
      others: values of `device`, `date`, `status` and `command`.
    """
    found = dict.fromkeys(COLUMNS, "")
    found |= {
        "zoo": zoo,
        "method": config["method"],
        "num_probes": str(config["num_probes"]),
        "source": _source(config),
        "status": NOT_RUN,
    }
    figure = published_figures.of(config)
    if figure is not None:
        found |= {
            "published": str(figure.value),
            "published_verified": "yes" if figure.verified else "no",
        }
    if result is not None:
        found |= scores(result)
    return found | others


def scores(result: dict[str, Any]) -> Row:
    """The columns that a `result.json` fills."""
    last = [seed["last"]["test"] for seed in result["seeds"]]
    best = [seed["best"]["test"] for seed in result["seeds"]]
    together = result.get("ensemble")
    return {
        "metric": result["metric"],
        "num_seeds": str(len(last)),
        "test_mean": repr(statistics.fmean(last)),
        "test_std": repr(_deviation(last)),
        "best_test_mean": repr(statistics.fmean(best)),
        "best_test_std": repr(_deviation(best)),
        "ensemble_test": repr(together["last"]["test"]) if together else "",
        "train_networks": str(result["train_networks"]),
        "seconds": f"{result['seconds']:.1f}",
        "status": "done",
    }


def _source(config: dict[str, Any]) -> str:
    """Where the zoo is from: a folder that `build_zoo` made, or the published or built-in one."""
    if config.get("zoo_dir"):
        return f"built: {pathlib.Path(config['zoo_dir']).name}"
    return "built in" if config["dataset"].startswith("digits") else "published"


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def to_csv(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """The content of `results.csv`, or of a file of other columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def from_csv(path: pathlib.Path) -> list[Row]:
    """The rows of a `results.csv`.

    Raises:
      UserError: there is none, or it has other columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.UserError(f"cannot read {path} ({error}); give a results.csv") from error
    if columns not in (COLUMNS, tuple(name for name in COLUMNS if name != _LATER)):
        raise errors.UserError(
            f"{path} has the columns {', '.join(columns)}; a results.csv of reproduce.py has "
            f"{', '.join(COLUMNS)}"
        )
    for line, row in enumerate(rows, 2):
        try:
            if None in row or None in row.values():
                raise ValueError(f"it should have {len(COLUMNS)} cells")
            row[_LATER] = row.get(_LATER, "")
            later = [_LATER] if row[_LATER] else []
            for column in (*_FIGURES, *later) if row["status"] == "done" else ():
                float(row[column])
        except ValueError as error:
            raise errors.UserError(f"{path}, line {line}: {error}; write it again") from error
    return rows


def to_markdown(rows: Sequence[Row]) -> str:
    """The figures as a Markdown table, and below it where the published ones are from."""
    lines = [
        "| zoo | method | probes | metric | seeds | test, last step | test, best on validation "
        "| mean prediction | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        lines.append(f"| {' | '.join(_cells(each))} |")
    lines += [
        "",
        "Mean ± standard deviation over seeds. Mean prediction: the test figure of the seeds' "
        "predictions at the last step, averaged. Published: Kahana et al., ICLR 2025, as later "
        "work quotes it, on the authors' zoo; ?: quoted once only; –: not known.",
    ]
    devices = sorted({f"{each['device']}, {each['date']}" for each in rows if each["device"]})
    if devices:
        lines.append(f"Ours made on {'; '.join(devices)}.")
    return "\n".join(lines) + "\n"


def _cells(each: Row) -> list[str]:
    published = each["published"] or "–"
    if each["published_verified"] == "no":
        published += " ?"
    zoo = (
        each["zoo"]
        if each["source"] in ("published", "built in")
        else (f"{each['zoo']} ({each['source']})")
    )
    if each["status"] == "done":
        figures = [
            f"{float(each[f'{which}_mean']):.4f} ± {float(each[f'{which}_std']):.4f}"
            for which in ("test", "best_test")
        ]
        figures.append(f"{float(each[_LATER]):.4f}" if each[_LATER] else "–")
    else:
        figures = [each["status"], "", ""]
    return [
        zoo,
        each["method"],
        each["num_probes"],
        each["metric"].replace("kendall_tau", "Kendall's τ").replace("_", " "),
        each["num_seeds"],
        *figures,
        published,
    ]


def main(argv: Sequence[str]) -> None:
    """Prints files like `results.csv` as one table in Markdown."""
    if len(argv) < 2:
        raise errors.UserError("give a results.csv, as in runs/grid/results.csv")
    rows = [row for path in argv[1:] for row in from_csv(pathlib.Path(path))]
    print(to_markdown(rows), end="")


if __name__ == "__main__":
    errors.run(main)
