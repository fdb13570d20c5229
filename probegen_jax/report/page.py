"""The page: findings of one run or several, side by side, as HTML that needs nothing else."""

import html
import re
import string
from collections.abc import Callable, Sequence

import numpy as np

from probegen_jax.method import published_figures
from probegen_jax.method.generators import registry
from probegen_jax.report import charts, sections
from probegen_jax.report.findings import Findings
from probegen_jax.report.text import plural, score, table

# Anchor, heading, introduction, what is drawn of each run, and what of several together.
_Section = tuple[str, str, str, Callable[..., str], Callable[..., str] | None]

# An icon that is empty, else browsers ask the network for one.
_PAGE = string.Template("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<meta name="pictures" content="$pictures">
<title>$title · probegen_jax</title><style>$style</style></head><body>
<header><p class="over">probes for the zoo $zoos</p><h1>$title</h1>\
<div class="numbers">$numbers</div><nav aria-label="Sections">$links</nav></header>
<main>
$sections
</main><footer><p>Made by probegen_jax. The method is by Kahana, Horwitz, Shuval and Hoshen: \
<em>Deep Linear Probe Generators for Weight Space Learning</em>, ICLR 2025.</p></footer>\
</body></html>
""")


_PICTURES = re.compile('<meta name="pictures" content="(.*)">')
_NOT_FINISHED = "not finished"
_NO_PROBES = "<p>This method reads weights, and has no probes.</p>"


def render(runs: Sequence[Findings], pictures: Sequence[str] = ()) -> str:
    """The whole page, of at least one run.

    Args:
      pictures: paths of files that go with it, without spaces.
    """
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    zoos = ", ".join(sorted({run.result["dataset"] for run in runs}))
    return _PAGE.substitute(
        title=html.escape(title),
        style=charts.PAGE_STYLE + charts.STYLE,
        zoos=html.escape(zoos),
        pictures=html.escape(" ".join(pictures)),
        numbers="".join(_numbers(run, len(runs) == 1) for run in runs),
        links="".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, *_ in _SECTIONS),
        sections="\n".join(_section(runs, section) for section in _SECTIONS),
    )


def pictures_of(page: str) -> list[str] | None:
    """The pictures that go with a page, see `render`; None of one that an earlier version made."""
    found = _PICTURES.search(page)
    return None if found is None else html.unescape(found[1]).split()


def is_of_finished(page: str) -> bool:
    """Whether all runs that a page shows were finished."""
    return f"<b>{_NOT_FINISHED}<" not in page


def has(run: Findings, section: str) -> bool:
    """Whether there is something to draw of a run in a section."""
    return len(run.probes_after) > 0 or section not in ("probes", "importance")


def _section(runs: Sequence[Findings], section: _Section) -> str:
    anchor, heading, intro, draw, together = section
    parts = [f'<section id="{anchor}"><h2>{heading}</h2><p class="muted">{intro}</p>']
    several = len(runs) > 1
    if several and together is not None:
        parts.append(together(runs))
    if several and together is sections.settings_together:  # which leaves nothing to say
        return "\n".join(parts) + "</section>"
    parts.append('<div class="runs">')
    for run in runs:
        name = f"<h3>{html.escape(run.name)}</h3>" if several else ""
        drawn = draw(run) if has(run, anchor) else _NO_PROBES
        parts.append(f'<div class="run">{name}{drawn}</div>')
    return "\n".join([*parts, "</div></section>"])


def _numbers(run: Findings, alone: bool) -> str:
    """The figures that one looks for first."""
    result = run.result
    if "mean" not in result:
        return _number(_NOT_FINISHED, f"{run.name}: at step {result['steps']:,}", main=True)
    seeds = len(result["seeds"])
    value = score(run, result["mean"])
    spread = f" ± {score(run, result['std'])}" if seeds > 1 else ""
    method = registry.title(result["method"])
    if result["num_probes"]:
        method += f", {result['num_probes']} probes"
    who = f"test {run.task.metric_title}, {method}"
    if not alone:
        return _number(value, f"{run.name}: {who}", spread, main=True)
    numbers = [
        _number(value, f"{who}, {plural(seeds, 'seed')}, at the last step", spread, main=True),
        _number(_at_best(run), "at the best validation step"),
    ]
    if "ensemble" in result:
        together = score(run, result["ensemble"]["last"]["test"])
        numbers.append(_number(together, "by the seeds' mean prediction, at the last step"))
    published = published_figures.of(run.config)
    if published is not None:
        doubt = "" if published.verified else "; quoted, not verified"
        source = f"published ({published.source}{doubt})"
        numbers.append(_number(score(run, published.value), source))
    speed = f"{result['steps']:,} steps, {result['steps_per_second']:,.0f} per second"
    numbers.append(_number(f"{result['seconds']:,.0f} s", f"training time: {speed}"))
    return "".join(numbers)


def _at_best(run: Findings) -> str:
    """The mean test figure at each seed's best step on validation."""
    return score(run, np.mean([seed["best"]["test"] for seed in run.result["seeds"]]))


def _number(value: str, what: str, spread: str = "", main: bool = False) -> str:
    css = "number main" if main else "number"
    small = f"<small>{html.escape(spread)}</small>" if spread else ""
    value, what = html.escape(value), html.escape(what)
    return f'<div class="{css}"><b>{value}{small}</b><span>{what}</span></div>'


def _comparison(runs: Sequence[Findings]) -> str:
    rows: list[list[str]] = []
    for run in runs:
        result, published = run.result, published_figures.of(run.config)
        row = [run.name, result["dataset"], registry.title(result["method"])]
        row.append(str(result["num_probes"]))
        if "mean" in result:
            test = f"{score(run, result['mean'])} ± {score(run, result['std'])}"
            row += [str(len(result["seeds"])), test, _at_best(run)]
        else:
            row += ["", "not finished", ""]
        rows.append([*row, score(run, published.value) if published else ""])
    head = ["run", "zoo", "method", "probes", "seeds", "test, last", "test, best", "published"]
    return table("Test results of the runs", head, rows, texts=3)


_SECTIONS: list[_Section] = [
    ("what", "What was trained", "Every network of the zoo gets the same probes. A head predicts "
     "from its responses.", sections.what, None),
    ("results", "Results", "Test networks are used once, after training. The best step is the one "
     "with the best score on validation.", sections.results, _comparison),
    ("curves", "Learning curves", "One line per seed.", sections.curves, sections.curves_together),
    ("probes", "The probes", "The first seed's probes, before and after training.",
     sections.probes, None),
    ("predictions", "Predictions", "What the first seed predicts for the test networks, at the "
     "last step.", sections.predictions, None),
    ("wrong", "Largest errors", "The test networks that the first seed got most wrong.",
     sections.wrong, None),
    ("importance", "Which probes matter", "One probe at a time is left out: its responses are "
     "replaced by their mean over the networks.", sections.importance, None),
    ("settings", "Settings and versions", "What you need to repeat the training.",
     sections.settings, sections.settings_together),
]  # fmt: skip
