"""The page: findings of one run or several, side by side, as HTML that needs nothing else."""

import html
import importlib.resources
import re
from collections.abc import Callable, Sequence

import numpy as np

from probegen_jax.method import published_figures
from probegen_jax.method.generators import registry
from probegen_jax.report import charts, sections
from probegen_jax.report.findings import Findings
from probegen_jax.report.text import plural, score, table


def render(runs: Sequence[Findings]) -> str:
    """The whole page.

    Args:
      runs: at least one.
    """
    style = importlib.resources.files("probegen_jax.report").joinpath("style.css").read_text()
    style = re.sub(r"\n\s*", "\n", f"{style}\n{charts.STYLE}")
    names = [run.name for run in runs]
    title = f"{names[0]}" if len(runs) == 1 else f"{len(runs)} runs compared"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',  # else browsers ask the network for one
        f"<title>{html.escape(title)} · probegen_jax</title><style>{style}</style></head><body>",
        _header(title, runs),
        "<main>",
    ]
    for anchor, heading, intro, draw in _SECTIONS:
        bodies = [(run.name, draw(run)) for run in runs]
        if not any(body for _, body in bodies):
            continue
        parts.append(f'<section id="{anchor}"><h2>{heading}</h2><p class="muted">{intro}</p>')
        if anchor == "results" and len(runs) > 1:
            parts.append(_comparison(runs))
        if anchor == "curves" and len(runs) > 1:
            parts.append(sections.curves_together(runs))
        if anchor == "settings" and len(runs) > 1:
            parts.append(sections.settings_together(runs) + "</section>")
            continue
        parts.append('<div class="runs">')
        for name, body in bodies:
            heading3 = f"<h3>{html.escape(name)}</h3>" if len(runs) > 1 else ""
            parts.append(f'<div class="run">{heading3}{body or "<p>Nothing to show.</p>"}</div>')
        parts.append("</div></section>")
    parts.append(f"</main>{_footer()}</body></html>\n")
    return "\n".join(parts)


def _header(title: str, runs: Sequence[Findings]) -> str:
    what = {(run.result["dataset"], run.result["metric"]) for run in runs}
    zoos = ", ".join(sorted({dataset for dataset, _ in what}))
    links = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, _, _ in _SECTIONS)
    return (
        f'<header><p class="over">probing networks of {html.escape(zoos)}</p>'
        f"<h1>{html.escape(title)}</h1>"
        f'<div class="numbers">{"".join(_numbers(run, len(runs) == 1) for run in runs)}</div>'
        f'<nav aria-label="Sections">{links}</nav></header>'
    )


def _numbers(run: Findings, alone: bool) -> str:
    """The figures that one looks for first."""
    result = run.result
    method = registry.title(result["method"])
    if "mean" not in result:
        return _number("not finished", f"{run.name}: at step {result['steps']:,}", main=True)
    seeds = len(result["seeds"])
    value = score(run, result["mean"])
    spread = f" ± {score(run, result['std'])}" if seeds > 1 else ""
    who = f"test {run.task.metric_title}, {method}, {result['num_probes']} probes"
    if not alone:
        return _number(value, f"{run.name}: {who}", spread, main=True)
    best = np.mean([seed["best"]["test"] for seed in result["seeds"]])
    numbers = [
        _number(value, f"{who}, {plural(seeds, 'seed')}, at the last step", spread, main=True),
        _number(score(run, float(best)), "at the best step on validation"),
    ]
    figure = published_figures.of(run.config)
    if figure is not None:
        doubt = "" if figure.verified else "; quoted, not verified"
        numbers.append(_number(score(run, figure.value), f"published ({figure.source}{doubt})"))
    numbers.append(
        _number(
            f"{result['seconds']:,.0f} s",
            f"of training: {result['steps']:,} steps, {result['steps_per_second']:,.0f} a second",
        )
    )
    return "".join(numbers)


def _number(value: str, what: str, spread: str = "", main: bool = False) -> str:
    css = "number main" if main else "number"
    small = f"<small>{html.escape(spread)}</small>" if spread else ""
    value, what = html.escape(value), html.escape(what)
    return f'<div class="{css}"><b>{value}{small}</b><span>{what}</span></div>'


def _comparison(runs: Sequence[Findings]) -> str:
    rows: list[list[str]] = []
    for run in runs:
        result = run.result
        figure = published_figures.of(run.config)
        finished = "mean" in result
        rows.append(
            [
                run.name,
                result["dataset"],
                registry.title(result["method"]),
                str(result["num_probes"]),
                str(len(result["seeds"])) if finished else "",
                f"{score(run, result['mean'])} ± {score(run, result['std'])}"
                if finished
                else "not finished",
                score(run, float(np.mean([s["best"]["test"] for s in result["seeds"]])))
                if finished
                else "",
                score(run, figure.value) if figure else "",
            ]
        )
    head = ["run", "zoo", "probes from", "probes", "seeds", "test", "at best on val", "published"]
    return table("Test figures of the runs", head, rows, numeric={3, 4, 5, 6, 7})


def _footer() -> str:
    return (
        "<footer><p>Made by probegen_jax. The method is by Kahana, Horwitz, Shuval and Hoshen: "
        "<em>Deep Linear Probe Generators for Weight Space Learning</em>, ICLR 2025.</p></footer>"
    )


_SECTIONS: list[tuple[str, str, str, Callable[[Findings], str]]] = [
    ("what", "What was trained", "Every network of the zoo is shown the same probes; a head "
     "reads the answers.", sections.what),
    ("results", "Results", "Test networks are looked at once, after training. The best step is "
     "chosen on validation.", sections.results),
    ("curves", "Learning curves", "A line per seed.", sections.curves),
    ("probes", "The probes", "What the first seed's networks are asked, before and after "
     "training.", sections.probes),
    ("predictions", "Predictions", "The first seed on the test networks, at the last step.",
     sections.predictions),
    ("wrong", "Most wrongly predicted", "Test networks where the first seed was surest of "
     "something wrong, or furthest off.", sections.wrong),
    ("importance", "Which probes matter", "Each probe in turn tells nothing: its responses are "
     "replaced by their mean over networks.", sections.importance),
    ("settings", "Settings and versions", "What it takes to do this again.", sections.settings),
]  # fmt: skip
