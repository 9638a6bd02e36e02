"""Rows at the bottom of a terminal that change in place: what to write for that. No I/O.

The cursor rests at the beginning of the row below them, and nothing of the terminal's mode is changed, so that there is
nothing to restore whatever happens. Rows are written over rather than erased first, so that nothing flickers.
"""

import re
from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len

from poolnet_cli.ink import Ink

#: What styles a text; it takes no room.
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")
_ERASE_TO_END_OF_LINE: Final = "\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"


def rows_of(line: str, width: int) -> int:
    """Return the rows that a line takes on a terminal of that width."""
    return max(1, -(-cell_len(_ESCAPES.sub("", line)) // max(1, width)))


class LiveLines:
    """Lines that are on the terminal now."""

    def __init__(self, ink: Ink) -> None:
        self._ink = ink
        self._drawn: tuple[str, ...] = ()

    def draw(self, lines: Sequence[str]) -> str:
        """Return what puts `lines` in the place of those that are there. Each fits into one row."""
        start = self._to_start()
        self._drawn = tuple(lines)
        content = "".join(f"{line}{_ERASE_TO_END_OF_LINE}\n" for line in lines)
        return f"{start}{content}{_ERASE_BELOW}" if start or content else ""

    def erase(self) -> str:
        """Return what takes away the lines that are there."""
        return self.draw(())

    def _to_start(self) -> str:
        """Return what leads to the first of the lines, also if the terminal has become narrower meanwhile."""
        width = self._ink.width()
        rows = sum(rows_of(line, width) for line in self._drawn)
        return f"\r\x1b[{rows}A" if rows else ""
