"""Numbers and tables as the page writes them."""

import html
from collections.abc import Collection, Sequence

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


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Collection[int] = (),
    total: int = 0,
) -> str:
    """An accessible table that scrolls within itself where it is too wide.

    Args:
      caption: what it is of.
      head: of the columns.
      rows: the first cell of each is its header.
      numeric: columns that are set right.
      total: how many of the last rows sum up the others.
    """
    css = [' class="n"' if n in numeric else "" for n in range(len(head))]
    parts = [
        f'<div class="scroll" role="region" aria-label="{html.escape(caption)}" tabindex="0">'
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>"
    ]
    parts += [
        f'<th scope="col"{kind}>{html.escape(name)}</th>'
        for name, kind in zip(head, css, strict=True)
    ]
    parts.append("</tr></thead><tbody>")
    for place, row in enumerate(rows):
        parts.append('<tr class="total">' if place >= len(rows) - total else "<tr>")
        parts.append(f'<th scope="row"{css[0]}>{html.escape(row[0])}</th>')
        parts += [
            f"<td{kind}>{html.escape(cell)}</td>"
            for cell, kind in zip(row[1:], css[1:], strict=True)
        ]
        parts.append("</tr>")
    parts.append("</tbody></table></div>")
    return "".join(parts)
