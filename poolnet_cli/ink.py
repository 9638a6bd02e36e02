"""Styled text for a terminal, plain text for everything else. Everything from others goes through `printable` here."""

import io
import os
import shutil
from collections.abc import Sequence
from typing import Final

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from poolnet import printable
from poolnet_cli.narrow import GAP, column_widths, paragraph

#: Cells of a column that is narrowed, if what has no room is cut off, and if it is folded.
_MIN_CUT: Final = 8
_MIN_FOLDED: Final = 24
#: Width for output that is not a terminal: nothing is cut or wrapped there.
_UNBOUNDED: Final = 10_000

#: A piece of a line: text, and a style of rich ("" for none).
Piece = tuple[str, str]


class Ink:
    """Turns pieces and tables into strings.

    Args:
        is_terminal: whether styles (and the terminal's width) apply.
        descriptor: of the terminal whose size counts; without it, that of the environment, or of standard output.
    """

    def __init__(self, *, is_terminal: bool, descriptor: int | None = None) -> None:
        self.is_terminal = is_terminal
        self._descriptor = descriptor

    def line(self, *pieces: Piece) -> str:
        """Return one line, its end included. The pieces' texts are made printable."""
        text = Text(no_wrap=True)
        for content, style in pieces:
            text.append(printable(content), style=style)
        return self._draw(text, width=_UNBOUNDED)

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, cuts: bool = False) -> str:
        """Return a table with aligned columns; headings that end in ``>`` are of columns of numbers.

        On a terminal that is too narrow for that, each row is a paragraph.

        Args:
            cuts: on a terminal, each row is one line: what has no room is cut off. Otherwise it is folded.
        """
        shown = [[printable(cell) for cell in row] for row in rows]
        width = self.width() if self.is_terminal else _UNBOUNDED
        widths = column_widths(headings, shown, width, at_least=_MIN_CUT if cuts else _MIN_FOLDED)
        if widths is None:
            lines = [line for row in shown for line in paragraph(headings, row, width)]
            drawn = self._draw(Text("\n", no_wrap=True).join(lines), width=_UNBOUNDED)
        else:
            drawn = self._draw(_table(headings, shown, widths, cuts=cuts), width=width)
        return "".join(line.rstrip() + "\n" for line in drawn.splitlines())

    def width(self) -> int:
        """Return the columns of the terminal."""
        return self._size().columns

    def height(self) -> int:
        """Return the rows of the terminal."""
        return self._size().lines

    def _size(self) -> os.terminal_size:
        if self._descriptor is not None:
            try:
                return os.get_terminal_size(self._descriptor)  # as it is now: COLUMNS is as it was
            except OSError:
                pass
        return shutil.get_terminal_size()

    def _draw(self, content: Text | Table, *, width: int) -> str:
        buffer = io.StringIO()
        console = Console(
            file=buffer,
            force_terminal=self.is_terminal,
            width=width,
            highlight=False,
            markup=False,
            emoji=False,
            no_color=None if self.is_terminal else True,
        )
        console.print(content, soft_wrap=isinstance(content, Text))
        return buffer.getvalue()


def ink_for(descriptor: int) -> Ink:
    """Return ink that suits a file descriptor."""
    return Ink(is_terminal=os.isatty(descriptor) and os.environ.get("TERM") != "dumb", descriptor=descriptor)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], *, cuts: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for heading, width in zip(headings, widths, strict=True):
        justify: JustifyMethod = "right" if heading.endswith(">") else "left"
        table.add_column(heading.rstrip(">"), justify=justify, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=cuts, overflow="ellipsis" if cuts else "fold") for cell in row))
    return table
