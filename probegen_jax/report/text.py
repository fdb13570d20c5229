"""Numbers, tables and pictures as the page writes them."""

import html
from collections.abc import Iterable, Sequence

from probegen_jax.report.findings import Findings


def percent(value: float) -> str:
    """A share as per cent."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def plural(number: int, thing: str) -> str:
    """A count with its noun: 1 seed, 3 seeds."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def score(run: Findings, value: float) -> str:
    """A metric's value: per cent of accuracy, or a coefficient."""
    return percent(value) if run.task.classes else f"{value:.3f}"


def figure(picture: str, caption: str = "") -> str:
    """A picture with its caption, which is HTML."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{picture}{below}</figure>"


def group(css: str, parts: Iterable[str]) -> str:
    """Pieces of HTML in one element, laid out as the style sheet says for its class."""
    return f'<div class="{css}">{"".join(parts)}</div>'


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    texts: int | None = None,
    total: int = 0,
) -> str:
    """An accessible table that scrolls within itself where it is too wide.

    Args:
      rows: the first cell of each is its header.
      texts: how many of the first columns hold text, all if None; numbers are set right.
      total: how many of the last rows sum up the others.
    """
    css = ["" if texts is None or n < texts else ' class="n"' for n in range(len(head))]
    names = [
        f'<th scope="col"{kind}>{html.escape(name)}</th>'
        for name, kind in zip(head, css, strict=True)
    ]
    body = []
    for n, row in enumerate(rows):
        first, *others = map(html.escape, row)
        cells = [f"<td{kind}>{cell}</td>" for cell, kind in zip(others, css[1:], strict=True)]
        kind = ' class="total"' if n >= len(rows) - total else ""
        body.append(f'<tr{kind}><th scope="row"{css[0]}>{first}</th>{"".join(cells)}</tr>')
    caption = html.escape(caption)
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">'
        f"<table><caption>{caption}</caption><thead><tr>{''.join(names)}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
