"""The sections of a report, each from the findings of one run to a piece of HTML."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from probegen_jax.method import published_figures
from probegen_jax.method.tasks import average_precisions, of_metric
from probegen_jax.report import charts, pictures
from probegen_jax.report.findings import Findings, shown
from probegen_jax.report.text import figure, group, percent, plural, score, table

_MISSING = "–"
_MOST_PROBES = 128
_TOP = 16
_MOST_MARKS, _MOST_CELLS, _MOST_ROWS = 60, 256, 200  # of classes, in matrix, picture, table


def what(run: Findings) -> str:
    """What was trained on what."""
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in run.facts.items()
    )
    return f"<dl>{rows}</dl>"


def results(run: Findings) -> str:
    """A row per seed, then of all together, then the published figure."""
    result = run.result
    if "seeds" not in result:
        return (
            f"<p>Not finished: at step {result['steps']:,}. The page shows its last checkpoint.</p>"
        )
    seeds = result["seeds"]
    both = [(which, split) for which in ("last", "best") for split in ("val", "test")]
    columns = {f"{split}, {which}": (which, split) for which, split in both}
    for name in ("accuracy", "within_runs", "by_image"):
        if f"test_{name}" in seeds[0]["last"]:
            columns[f"test {name.replace('_', ' ')}, last"] = ("last", f"test_{name}")

    def row(name: str, values: Iterable[float | None], end: str = "") -> list[str]:
        cells = (_MISSING if value is None else score(run, value) for value in values)
        return [name, *cells, end]

    values_SxC = [[seed[which][key] for which, key in columns.values()] for seed in seeds]
    rows = [
        row(str(seed["seed"]), values, f"{seed['best']['step']:,}")
        for seed, values in zip(seeds, values_SxC, strict=True)
    ]
    if len(seeds) > 1:
        for name, sum_up in (("mean", np.mean), ("std", lambda values: np.std(values, ddof=1))):
            by_column = zip(*values_SxC, strict=True)
            rows.append(row(name, (None if None in v else sum_up(v) for v in by_column)))
    if "ensemble" in result:
        together = [result["ensemble"][which][key] for which, key in columns.values()]
        rows.append(row("mean prediction", together))
    published = published_figures.of(run.config)
    if published is not None:
        doubt = "" if published.verified else " ?"
        test = score(run, published.value) + doubt
        rows.append(["published", "", test, *[""] * (len(columns) - 1)])
    metric = run.task.metric_title
    return table(
        f"{metric[:1].upper()}{metric[1:]} of {plural(len(seeds), 'seed')}",
        ["seed", *columns, "best step"],
        rows,
        texts=1,
        total=len(rows) - len(seeds),
    )


def curve_charts(run: Findings) -> dict[str, str]:
    """Charts of the training loss and of the validation metric, by name."""
    return {
        name: charts.lines(title, series, log=name == "loss")
        for name, (title, series) in run.curves.items()
    }


def curves(run: Findings) -> str:
    """Training loss and validation metric."""
    return group("row", map(figure, curve_charts(run).values()))


def curves_together(runs: Sequence[Findings]) -> str:
    """The validation metric of several runs in one chart, each the mean of its seeds."""
    drawn = []
    for metric in dict.fromkeys(run.result["metric"] for run in runs):
        means = []
        for run in runs:
            _, seeds = run.curves["validation"]
            if run.result["metric"] == metric and seeds:
                mean = np.mean([values for _, _, values in seeds], axis=0).tolist()
                means.append((run.name, seeds[0][1], mean))
        names = ", ".join(html.escape(name) for name, _, _ in means)
        chart = charts.lines(f"validation {of_metric(metric).metric_title}", means)
        drawn.append(figure(chart, f"Mean over seeds: {names}"))
    return group("row", drawn)


def probe_charts(run: Findings) -> dict[str, str]:
    """The probes before and after training: sheets of images, or where points lie, by name."""
    before, after = run.probes_before, run.probes_after
    if after.ndim == 4:
        cut = f" (the first {_MOST_PROBES})" if len(after) > _MOST_PROBES else ""
        return {
            "before": pictures.sheet_svg(before[:_MOST_PROBES], f"{run.before}{cut}"),
            "after": pictures.sheet_svg(after[:_MOST_PROBES], f"after training{cut}"),
        }
    if not run.planes:
        return {
            f"coordinate {d}": charts.histogram(f"coordinate {d}", before[:, d], after[:, d])
            for d in range(after.shape[1])
        }
    reach = pictures.reach_of(before, after)
    first, *others = run.planes
    return {
        "before": pictures.plane_svg(first, before, "probe before", reach=reach),
        "after": pictures.plane_svg(first, after, reach=reach),
    } | {f"network {plane.row}": pictures.plane_svg(plane, after, reach=reach) for plane in others}


def probes(run: Findings) -> str:
    """The probes before and after training."""
    drawn = probe_charts(run)
    if not run.planes:
        return group("row", map(figure, drawn.values()))
    first, *others = (html.escape(f"target {drawing.target}") for drawing in run.planes)
    captions = [
        f'<span class="key before"></span> {run.before}, over a network with {first}',
        f'<span class="key"></span> after training, over a network with {first}',
        *others,
    ]
    figures = list(map(figure, drawn.values(), captions))
    outside = int(np.sum(np.any(np.abs(run.probes_after) > 1, axis=1)))
    where = {1: "interval", 2: "square"}.get(run.probes_after.shape[1], "cube")
    words = (
        f"{outside} of {len(run.probes_after)} probes ended outside the {where} that the networks "
        "were fitted on."
    )
    if len(run.planes[0].views) > 1:
        words += " Each network is shown as its mean along each coordinate, with all probes."
    return f"{group('row', figures[:2])}{group('planes', figures[2:])}<p>{words}</p>"


def prediction_chart(run: Findings) -> str:
    """The confusion matrix, predicted against true values, or the precision of each class."""
    if run.task.several:
        precisions_O = average_precisions(run.outputs_NxO, run.targets_N)
        most = np.argsort(-run.targets_N.sum(axis=0), kind="stable")[:_MOST_CELLS]
        shown_O = np.sort(most[np.isfinite(precisions_O[most])])
        names = [run.called(place) for place in shown_O.tolist()]
        return charts.bars("average precision", precisions_O[shown_O], "class", names)
    if not run.task.classes:
        return charts.scatter("predicted value", run.outputs_NxO[:, 0], run.targets_N)
    predicted_N = np.argmax(run.outputs_NxO, axis=-1)
    classes = run.outputs_NxO.shape[1]
    cells = min(classes, _MOST_CELLS)  # several classes a cell, if there are more
    counts_CxC = np.zeros((cells, cells), np.int64)
    np.add.at(counts_CxC, (run.targets_N * cells // classes, predicted_N * cells // classes), 1)
    if classes <= _MOST_MARKS:
        return charts.confusion("confusion matrix", counts_CxC, run.class_names)
    right = int(np.sum(run.targets_N == predicted_N))
    return pictures.confusion_svg("confusion matrix", counts_CxC, classes, right)


def predictions(run: Findings) -> str:
    """The confusion matrix with each class's accuracy, a scatter with τ, or precisions."""
    reached = run.task.metric(run.outputs_NxO, run.targets_N)
    number = f"{len(run.targets_N):,} test networks"
    if not run.task.classes:
        chart = figure(prediction_chart(run), f"{number}, Kendall's τ = {reached:.3f}")
        return group("narrow", [chart])
    if run.task.several:
        words = f"{number}, {run.task.metric_title} {percent(reached)}"
        return group("row", [figure(prediction_chart(run), words), _several_classes(run)])
    right_N = np.argmax(run.outputs_NxO, axis=-1) == run.targets_N
    labels, numbers = np.unique(run.targets_N, return_counts=True)
    most = np.sort(np.argsort(-numbers, kind="stable")[:_MOST_ROWS])
    rows = []
    for label in labels[most].tolist():
        right = right_N[run.targets_N == label]
        rows.append([run.called(label), str(len(right)), percent(np.mean(right))])
    rest = f", the {_MOST_ROWS} with most networks" if len(labels) > _MOST_ROWS else ""
    head = ["class", "networks", "accuracy"]
    classes = table(f"Accuracy by class{rest}", head, rows, texts=1)
    chart = figure(prediction_chart(run), f"{number}, accuracy {percent(reached)}")
    details = f"<details open><summary>By class</summary>{classes}</details>"
    return group("row", [chart, details])


def _several_classes(run: Findings) -> str:
    """How well it is told which networks have each class."""
    counts_O = run.targets_N.sum(axis=0, dtype=np.int64)
    most = np.sort(np.argsort(-counts_O, kind="stable")[:_MOST_ROWS])
    precisions_O = average_precisions(run.outputs_NxO, run.targets_N)
    right_O = np.mean((run.outputs_NxO > 0) == (run.targets_N != 0), axis=0)
    rows = [
        [
            run.called(place),
            str(counts_O[place]),
            percent(precisions_O[place]) if counts_O[place] else _MISSING,
            percent(right_O[place]),
        ]
        for place in most.tolist()
    ]
    head = ["class", "networks with it", "average precision", "accuracy"]
    rest = f", the {_MOST_ROWS} with most networks" if len(counts_O) > _MOST_ROWS else ""
    shown_table = table(f"By class{rest}", head, rows, texts=1)
    return f"<details open><summary>By class</summary>{shown_table}</details>"


def wrong_charts(run: Findings) -> dict[str, str]:
    """What the most wrongly predicted networks draw, by name."""
    return {
        f"network {network.row}": pictures.plane_svg(network.drawing)
        for network in run.wrong
        if network.drawing is not None
    }


def wrong(run: Findings) -> str:
    """The most wrongly predicted networks: drawn where they draw, else as a table."""
    if not run.wrong:
        return "<p>All test networks were predicted correctly.</p>"
    called = [(run.called(each.target), run.called(each.predicted)) for each in run.wrong]
    drawn = wrong_charts(run)
    if drawn:
        captions = (
            html.escape(f"true {target}, predicted {predicted} (network {network.row})")
            for network, (target, predicted) in zip(run.wrong, called, strict=True)
        )
        return group("planes", map(figure, drawn.values(), captions))
    rows = [
        [str(network.row), target, predicted, shown(network.error)]
        for network, (target, predicted) in zip(run.wrong, called, strict=True)
    ]
    head = ["row in the zoo", "true", "predicted", "error"]
    return table("The largest errors", head, rows, texts=1)


def importance_charts(run: Findings) -> dict[str, str]:
    """What each probe is worth, and the probes with their worth, by name."""
    loss_P, probes = run.importance.loss_P, run.probes_after
    drawn = {"bars": charts.bars(f"rise of the validation {run.loss}", loss_P, "left-out probe")}
    if probes.ndim == 4:
        top = probes[np.argsort(-loss_P, kind="stable")[:_TOP]]
        title = f"the {len(top)} probes that matter most"
        drawn["top"] = pictures.sheet_svg(top, title, columns=8)
    elif run.planes:
        worth_P = np.maximum(loss_P, 0) / max(float(loss_P.max()), 1e-12)
        size_P, reach = 1.0 + 5.0 * np.sqrt(worth_P), pictures.reach_of(probes)
        drawn["top"] = pictures.plane_svg(run.planes[0], probes, size_P=size_P, reach=reach)
    return drawn


def importance(run: Findings) -> str:
    """Which probes matter."""
    measured, drawn = run.importance, importance_charts(run)
    largest = int(np.argmax(measured.loss_P))
    without = measured.metric - float(measured.metric_P[largest])
    words = (
        f"On {measured.networks:,} validation networks the mean {run.loss} is {measured.loss:.4f}. "
        f"Without probe {largest} it rises by {measured.loss_P[largest]:.4f}, and "
        f"{run.task.metric_title} goes from {score(run, measured.metric)} to "
        f"{score(run, without)}."
    )
    sizes = "" if run.probes_after.ndim == 4 else "Larger points matter more."
    return f"<p>{words}</p>{group('row', map(figure, drawn.values(), ('', sizes)))}"


def _texts(values: dict[str, Any], before: str = "") -> list[list[str]]:
    """Rows of keys, with `before` in front, and of values."""
    return [
        [f"{before}{key}", _MISSING if value is None else str(value)]
        for key, value in values.items()
    ]


def settings(run: Findings) -> str:
    """Every setting, and the versions that the run was trained with."""
    config, head = sorted(_texts(run.config)), ["key", "value"]
    half = (len(config) + 1) // 2
    tables = [
        table("Settings", head, config[:half]),
        table("Settings, continued", head, config[half:]),
    ]
    versions = _texts(run.result.get("environment", {}))
    if versions:
        tables.append(table("Trained with", ["what", "version"], versions))
    return group("row", (f"<div>{part}</div>" for part in tables))


def settings_together(runs: Sequence[Findings]) -> str:
    """Settings of several runs in one table, those that differ first."""
    columns = [
        dict(sorted(_texts(run.config)))
        | dict(_texts(run.result.get("environment", {}), "trained with "))
        for run in runs
    ]
    same, differing = [], []
    for key in dict.fromkeys(key for column in columns for key in column):
        cells = [column.get(key, _MISSING) for column in columns]
        if len(set(cells)) > 1:
            differing.append([key, *cells])
        else:
            same.append([key, cells[0]])
    names = ["key", *(run.name for run in runs)]
    first = table("Settings that differ", names, differing) if differing else ""
    rest = table("Settings that all runs share", ["key", "value"], same)
    return f"{first}<details><summary>Settings that all runs share</summary>{rest}</details>"
