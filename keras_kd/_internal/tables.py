"""Rows of texts as a table: aligned for a terminal, in Markdown, or in HTML. The first row is the heading."""

import html
import unicodedata
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]

#: The look of tables and notes, of nothing outside them.
STYLE = """
.kd { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; }
.kd .scroll { overflow-x: auto; margin: 0.6em 0 1.4em; }
.kd table { border-collapse: collapse; font-variant-numeric: tabular-nums; background: #fff; }
.kd th, .kd td { padding: 0.3em 0.9em; text-align: right; white-space: nowrap; border: 0; }
.kd th:first-child { text-align: left; font-weight: 400; }
.kd thead th { border-bottom: 2px solid #1c2330; font-weight: 600; }
.kd thead th:first-child { font-weight: 600; color: #5b6472; }
.kd tbody tr { border-bottom: 1px solid #e3e6eb; background: #fff; }
.kd thead th { white-space: normal; overflow-wrap: break-word; max-width: 12em; vertical-align: bottom; }
.kd th:first-child { position: sticky; left: 0; background: inherit; white-space: normal; overflow-wrap: anywhere; }
.kd th:first-child { min-width: 16em; }
.kd thead tr { background: #fff; }
@media (max-width: 600px) { .kd th, .kd td { padding: 0.3em 0.5em; font-size: 13px; } }
@media (max-width: 600px) { .kd th:first-child { min-width: 7.5em; } .kd thead th { max-width: 7em; } }
.kd td.best { font-weight: 700; color: #0b6b66; }
.kd .note { color: #5b6472; font-size: 0.9em; }
"""


def aligned(rows: Rows, align: str, *, rule: bool = False) -> list[str]:
    """Return the lines of a table whose columns are two spaces apart.

    Args:
        rows: texts, as many in each row.
        align: "<" or ">" for each column; the last stands for all that follow.
        rule: whether to draw a line below the heading.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    forms = [f"{{:{side}{width}}}" for side, width in zip(_spread(align, len(widths)), widths, strict=True)]
    lines = ["  ".join(form.format(cell) for form, cell in zip(forms, row, strict=True)) for row in cells]
    if rule:
        lines.insert(1, "-" * len(lines[0]))
    return [line.rstrip() for line in lines]


def markdown(rows: Rows, align: str) -> str:
    """Return a table of GitHub's Markdown; for the arguments, see `aligned`."""
    head, *body = [[as_markdown(cell) for cell in row] for row in rows]
    sides = ["---" if side == "<" else "---:" for side in _spread(align, len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, sides, *body))


def hypertext(rows: Rows, best: Sequence[frozenset[int]]) -> str:
    """Return an HTML table, everything in it escaped.

    Args:
        rows: texts; the first of each is a heading, too.
        best: for each row below the heading, the places behind the title that get the class "best".
    """
    head = "".join(f"<th scope='col'>{as_html(cell)}</th>" for cell in rows[0])
    body = "".join(
        f"<tr><th scope='row'>{as_html(title)}</th>"
        + "".join(f"<td{' class=best' if n in marked else ''}>{as_html(cell)}</td>" for n, cell in enumerate(cells))
        + "</tr>"
        for (title, *cells), marked in zip(rows[1:], best, strict=True)
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def as_markdown(text: str) -> str:
    """Return text as Markdown that shows it as it is."""
    return html.escape(printable(text), quote=False).replace("|", "\\|")


def as_html(text: str) -> str:
    """Return text as HTML that shows it as it is."""
    return html.escape(printable(text))


def printable(text: str) -> str:
    """Return text without characters that break a line or colour a terminal, or that no text or SVG file may hold."""
    return "".join(each if each.isprintable() or unicodedata.category(each) == "Zs" else "?" for each in text)


def _spread(align: str, columns: int) -> str:
    return align + align[-1] * (columns - len(align))
