"""The sections of a report, each from the findings of one run to a piece of HTML."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from probegen_jax.method import published_figures
from probegen_jax.method.tasks import of_metric
from probegen_jax.report import charts, pictures
from probegen_jax.report.findings import Drawing, Findings, shown
from probegen_jax.report.text import percent, plural, score, table

_MISSING = "–"
_MOST_PROBES = 128
_TOP = 16


def figure(picture: str, caption: str = "") -> str:
    """A picture with what is to be said of it; the caption is HTML."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{picture}{below}</figure>"


def what(run: Findings) -> str:
    """What was trained on what."""
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in run.facts.items()
    )
    return f"<dl>{rows}</dl>"


def results(run: Findings) -> str:
    """A row per seed, then mean and standard deviation, then the published figure."""
    result = run.result
    if "seeds" not in result:
        return f"<p>Not finished: at step {result['steps']:,}. Its last checkpoint is shown.</p>"
    keys = [("last", "val"), ("last", "test"), ("best", "val"), ("best", "test")]
    head = ["seed", "val, last", "test, last", "val, best", "test, best", "best step"]
    within = "test_within_runs" in result["seeds"][0]["last"]
    if within:
        keys.append(("last", "test_within_runs"))
        head.insert(5, "test within runs, last")
    rows, columns = [], {key: [] for key in keys}
    for seed in result["seeds"]:
        cells = []
        for key in keys:
            value = seed[key[0]][key[1]]
            columns[key].append(value)
            cells.append(_MISSING if value is None else score(run, value))
        rows.append([str(seed["seed"]), *cells, f"{seed['best']['step']:,}"])
    number = len(rows)
    sums = []
    if number > 1:
        for name, sum_up in (("mean", np.mean), ("std", lambda v: np.std(v, ddof=1))):
            sums.append(
                [name, *(
                    _MISSING if None in values else score(run, float(sum_up(values)))
                    for values in columns.values()
                ), ""]
            )  # fmt: skip
    published = published_figures.of(run.config)
    if published is not None:
        cells = [""] * len(keys)
        cells[1] = score(run, published.value) + ("" if published.verified else " ?")
        sums.append(["published", *cells, ""])
    metric = run.task.metric_title
    return table(
        f"{metric[:1].upper()}{metric[1:]} of {plural(number, 'seed')}",
        head,
        rows + sums,
        numeric=set(range(1, len(head))),
        total=len(sums),
    )


def _series(run: Findings, key: str) -> list[tuple[str, list[int], list[float]]]:
    records = [record for record in run.records if key in record]
    if not records:
        return []
    seed = run.config["seed"]
    return [
        (f"seed {seed + n}", [r["step"] for r in records], [r[key][n] for r in records])
        for n in range(len(records[-1][key]))
    ]


def curve_charts(run: Findings) -> dict[str, str]:
    """Charts of the training loss and of the validation metric, by name."""
    metric = run.result["metric"]
    title = f"validation {run.task.metric_title}"
    return {
        "loss": charts.lines("training loss", _series(run, "train_loss"), log=True),
        "validation": charts.lines(title, _series(run, f"val_{metric}")),
    }


def curves(run: Findings) -> str:
    """Training loss and validation metric."""
    return f'<div class="row">{"".join(map(figure, curve_charts(run).values()))}</div>'


def curves_together(runs: Sequence[Findings]) -> str:
    """The validation metric of several runs in one chart, each the mean of its seeds."""
    found = []
    for metric in dict.fromkeys(run.result["metric"] for run in runs):
        series = []
        for run in runs:
            each = _series(run, f"val_{metric}")
            if run.result["metric"] == metric and each:
                means = np.mean([ys for _, _, ys in each], axis=0).tolist()
                series.append((run.name, each[0][1], means))
        name = of_metric(metric).metric_title
        found.append(figure(charts.lines(f"validation {name}", series), "Mean over seeds: " + (
            ", ".join(html.escape(label) for label, _, _ in series))))  # fmt: skip
    return f'<div class="row">{"".join(found)}</div>'


def probe_charts(run: Findings) -> dict[str, str]:
    """The probes before and after training: sheets of images, or where points lie, by name."""
    before, after = run.probes_before, run.probes_after
    if after.ndim == 4:
        cut = f" (the first {_MOST_PROBES})" if len(after) > _MOST_PROBES else ""
        return {
            "before": pictures.sheet_svg(before[:_MOST_PROBES], f"before training{cut}"),
            "after": pictures.sheet_svg(after[:_MOST_PROBES], f"after training{cut}"),
        }
    if not run.planes:
        return {
            f"coordinate {d}": charts.histogram(f"coordinate {d}", before[:, d], after[:, d])
            for d in range(after.shape[1])
        }
    first, *others = run.planes
    reach = pictures.reach_of(before, after)

    def draw(drawing: Drawing, css: str, points: np.ndarray) -> str:
        return pictures.plane_svg(drawing, [(css, points)], run.grid or "xy", reach=reach)

    drawn = {"before": draw(first, "probe before", before), "after": draw(first, "probe", after)}
    return drawn | {f"network {each.row}": draw(each, "probe", after) for each in others}


def probes(run: Findings) -> str:
    """The probes before and after training."""
    drawn = probe_charts(run)
    if not run.planes:
        return f'<div class="row">{"".join(map(figure, drawn.values()))}</div>'
    first, *others = (html.escape(f"target {drawing.target}") for drawing in run.planes)
    captions = [
        f'<span class="key before"></span> before training, over a network of {first}',
        f'<span class="key"></span> after training, over a network of {first}',
        *others,
    ]
    figures = list(map(figure, drawn.values(), captions))
    outside = int(np.sum(np.any(np.abs(run.probes_after) > 1, axis=1)))
    words = (
        f"{outside} of {len(run.probes_after)} probes ended outside the square that the networks "
        "were fitted on."
    )
    return (
        f'<div class="row">{"".join(figures[:2])}</div>'
        f'<div class="planes">{"".join(figures[2:])}</div><p>{words}</p>'
    )


def prediction_chart(run: Findings) -> str:
    """The confusion matrix, or predicted against true values."""
    if run.task.classes:
        predicted_N = np.argmax(run.outputs_NxO, axis=-1)
        classes = run.outputs_NxO.shape[1]
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (run.targets_N, predicted_N), 1)
        return charts.confusion("confusion matrix", counts)
    return charts.scatter("predicted value", run.outputs_NxO[:, 0], run.targets_N)


def predictions(run: Findings) -> str:
    """The confusion matrix with each class's accuracy, or a scatter with τ."""
    reached = run.task.metric(run.outputs_NxO, run.targets_N)
    number = f"{len(run.targets_N):,} test networks"
    if not run.task.classes:
        chart = figure(prediction_chart(run), f"{number}, Kendall's τ = {reached:.3f}")
        return f'<div class="narrow">{chart}</div>'
    predicted_N = np.argmax(run.outputs_NxO, axis=-1)
    rows = []
    for label in np.unique(run.targets_N).tolist():
        mine = run.targets_N == label
        rows.append(
            [str(label), str(int(mine.sum())), percent(float(np.mean(predicted_N[mine] == label)))]
        )
    classes = table("Accuracy by class", ["class", "networks", "accuracy"], rows, numeric={1, 2})
    chart = figure(prediction_chart(run), f"{number}, accuracy {percent(reached)}")
    return (
        f'<div class="row">{chart}'
        f"<details open><summary>By class</summary>{classes}</details></div>"
    )


def wrong(run: Findings) -> str:
    """The most wrongly predicted networks: drawn where they draw, else as a table."""
    if not run.wrong:
        return "<p>No test network was predicted wrongly.</p>"
    if run.wrong[0].drawing is not None:
        drawn = "".join(
            figure(
                pictures.plane_svg(each.drawing, [], run.grid or "xy"),
                f"is {shown(each.target)}, read as {shown(each.predicted)} (network {each.row})",
            )
            for each in run.wrong
            if each.drawing is not None
        )
        return f'<div class="planes">{drawn}</div>'
    rows = [
        [str(each.row), shown(each.target), shown(each.predicted), f"{each.error:.3f}"]
        for each in run.wrong
    ]
    head = ["row in the zoo", "true", "predicted", "error"]
    return table("The largest errors", head, rows, numeric={1, 2, 3})


def importance_charts(run: Findings) -> dict[str, str]:
    """What each probe is worth, and the probes with their worth, by name."""
    found = run.importance
    drawn = {
        "bars": charts.bars("growth of the validation loss", found.loss_P, "probes, most first")
    }
    order = np.argsort(-found.loss_P, kind="stable")
    if run.probes_after.ndim == 4:
        top = order[:_TOP]
        drawn["top"] = pictures.sheet_svg(
            run.probes_after[top], f"the {len(top)} that matter most, most first", columns=8
        )
    elif run.planes:
        worth = np.maximum(found.loss_P, 0) / max(float(found.loss_P.max()), 1e-12)
        drawn["top"] = pictures.plane_svg(
            run.planes[0],
            [("probe", run.probes_after)],
            run.grid or "xy",
            size_P=1.0 + 5.0 * np.sqrt(worth),
            reach=pictures.reach_of(run.probes_after),
        )
    return drawn


def importance(run: Findings) -> str:
    """Which probes matter."""
    found = run.importance
    drawn = importance_charts(run)
    largest = int(np.argmax(found.loss_P))
    metric = run.task.metric_title
    without = found.metric - float(found.metric_P[largest])
    words = (
        f"Of {found.networks:,} validation networks the mean loss is {found.loss:.4f}. Without "
        f"probe {largest} it grows by {found.loss_P[largest]:.4f}, and {metric} goes from "
        f"{score(run, found.metric)} to {score(run, without)}."
    )
    second = ""
    if "top" in drawn:
        caption = "" if run.probes_after.ndim == 4 else "The larger a point, the more it matters."
        second = figure(drawn["top"], caption)
    return f'<p>{words}</p><div class="row">{figure(drawn["bars"])}{second}</div>'


def _values(run: Findings) -> dict[str, str]:
    environment = run.result.get("environment", {})
    return {key: _shown(value) for key, value in sorted(run.config.items())} | {
        f"trained with {key}": _shown(value) for key, value in environment.items()
    }


def settings(run: Findings) -> str:
    """Every setting, and the versions that the run was trained with."""
    values = _values(run)
    config = [[key, value] for key, value in values.items() if not key.startswith("trained with")]
    versions = [
        [key.removeprefix("trained with "), value]
        for key, value in values.items()
        if key.startswith("trained with")
    ]
    half = (len(config) + 1) // 2
    head = ["key", "value"]
    tables = [
        table("Settings", head, config[:half]),
        table("Settings, continued", head, config[half:]),
    ]
    if versions:
        tables.append(table("Trained with", ["what", "version"], versions))
    return f'<div class="row">{"".join(f"<div>{each}</div>" for each in tables)}</div>'


def settings_together(runs: Sequence[Findings]) -> str:
    """Settings of several runs in one table, those that differ first."""
    values = [_values(run) for run in runs]
    keys = list(dict.fromkeys(key for each in values for key in each))
    rows: dict[bool, list[list[str]]] = {True: [], False: []}
    for key in keys:
        cells = [each.get(key, _MISSING) for each in values]
        rows[len(set(cells)) > 1].append([key, *cells])
    names = ["key", *(run.name for run in runs)]
    differing = table("Settings that differ", names, rows[True]) if rows[True] else ""
    same = table("Settings that all share", ["key", "value"], [row[:2] for row in rows[False]])
    return f"{differing}<details><summary>Settings that all share</summary>{same}</details>"


def _shown(value: Any) -> str:
    return _MISSING if value is None else str(value)
