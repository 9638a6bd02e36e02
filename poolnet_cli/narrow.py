"""Rows of a table in the cells that a terminal has: narrower columns, or each row as a paragraph of its own. Pure."""

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len, chop_cells
from rich.text import Text

#: Between two columns, or two values of a paragraph.
GAP: Final = 2
_INDENT: Final = "  "
_FURTHER_INDENT: Final = "    "
#: A paragraph is not folded narrower than this; whoever has less reads rows that the terminal folds.
_MIN_ROOM: Final = 8


def column_widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, at_least: int
) -> list[int] | None:
    """Return the cells of each column so that all have room; None if some would be too narrow to read.

    Columns of numbers (headings that end in ``>``) and the first one, which names the row, are never narrowed.

    Args:
        width: cells of the terminal.
        at_least: cells of a column that is narrowed.
    """
    widths = [
        max(cell_len(text) for text in (heading.rstrip(">"), *column))
        for heading, column in zip(headings, zip(*rows, strict=True), strict=True)
    ]
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    texts = [place for place, heading in enumerate(headings) if place and not heading.endswith(">")]
    for place in sorted(texts, key=lambda place: -widths[place]):
        less = max(0, min(excess, widths[place] - at_least))
        widths[place] -= less
        excess -= less
    return widths if excess <= 0 else None


def paragraph(headings: Sequence[str], row: Sequence[str], width: int) -> list[Text]:
    """Return a row as lines: what names it, then its values with their headings, without those that say nothing."""
    name = "  ".join(cell for cell in row[:2] if cell)
    first = next(iter(_chopped(name, width, "")), "")
    lines = [Text(first, style="bold")]
    lines += [Text(_INDENT + part, style="bold") for part in _chopped(name[len(first) :], width, _INDENT)]
    current = Text()
    for heading, value in zip(headings[2:], row[2:], strict=True):
        if value in ("", "-"):
            continue
        pair = _pair(heading.rstrip(">").lower(), value)
        gap = _INDENT if current else ""
        if current and cell_len(current.plain) + len(gap) + cell_len(pair.plain) > width - len(_INDENT):
            lines += _indented(current, width)
            current, gap = Text(), ""
        current.append(gap).append_text(pair)
    return [*lines, *(_indented(current, width) if current else [])]


def _pair(heading: str, value: str) -> Text:
    text = Text(heading, style="")
    text.stylize("dim")
    return text.append(f" {value}" if heading else value, style="not dim")


def _indented(line: Text, width: int) -> list[Text]:
    """Return a line of values, or several if it is one value that is too long for one."""
    first, *_ = _chopped(line.plain, width, _INDENT)
    rest = _chopped(line.plain[len(first) :], width, _FURTHER_INDENT)
    return [Text(_INDENT).append_text(line[: len(first)]), *(Text(_FURTHER_INDENT + part) for part in rest)]


def _chopped(text: str, width: int, indent: str) -> list[str]:
    return chop_cells(text, max(_MIN_ROOM, width - len(indent)))
