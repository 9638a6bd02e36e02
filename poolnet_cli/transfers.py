"""What is being hashed and fetched, as lines of text: one for each, and a sum of what is fetched if that is several.

Pure; time comes in. For a terminal the lines are drawn again and again; elsewhere one is told now and then.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import attrs
from rich.cells import cell_len, set_cell_size

from poolnet import printable
from poolnet_cli.ink import Ink, Piece
from poolnet_cli.reporter import Record
from poolnet_cli.units import fitted, format_duration, format_rate, format_size

#: Where there is no terminal: how long something takes before it is told, and how often then.
FIRST_TOLD_S: Final = 5.0
TOLD_INTERVAL_S: Final = 10.0
_BAR_CELLS: Final = 20
#: A rate of less than this is not worth telling.
_MIN_MEASURED_S: Final = 0.5
#: Cells of a name: at least, and at most.
_MIN_NAME: Final = 10
_MAX_NAME: Final = 40
#: Rows of the terminal that are left to other things.
_FREE_ROWS: Final = 3
#: Which columns go first where there is no room: sources, bar, sizes, time left, rate, share.
_LESS_IMPORTANT: Final = (4, 0, 2, 5, 3, 1)


@attrs.define(kw_only=True)
class _Transfer:
    """One file that is being hashed or fetched."""

    name: str
    is_fetched: bool
    size: int = 0
    done: int = 0
    rate: float = 0.0
    sources: int = 0
    since: float
    told_at: float | None = None
    is_here: bool = True  # in the list; those that have ended still count in the sum

    @property
    def columns(self) -> tuple[str, ...]:
        """What stands behind the bar: share, sizes, rate, sources, time left."""
        share = f"{100 * self.done // max(self.size, 1)} %"
        rate = format_rate(self.rate) if self.rate else ""
        sources = f"{self.sources} source{'' if self.sources == 1 else 's'}" if self.sources else ""
        left = f"{format_duration((self.size - self.done) / self.rate)} left" if self.rate else ""
        if self.is_fetched and not self.rate and self.done < self.size:
            left = "waiting"
        return share, f"{format_size(self.done)} / {format_size(self.size)}", rate, sources, left


class Transfers:
    """What a command hashes and fetches.

    Args:
        clock: a clock that does not jump.
    """

    def __init__(self, ink: Ink, clock: Callable[[], float] = time.monotonic) -> None:
        self._ink = ink
        self._clock = clock
        self._transfers: dict[str, _Transfer] = {}

    def update(self, record: Record) -> None:
        """Take progress."""
        key = self._key(record)
        transfer = self._transfers.get(key)
        if transfer is None:
            name = printable(str(record["name"]))
            transfer = _Transfer(name=name, is_fetched="file_id" in record, since=self._clock())
            self._transfers[key] = transfer
        transfer.size, transfer.done = record["size"], record["bytes"]
        transfer.rate, transfer.sources = record.get("rate", 0.0), record.get("sources", 0)
        transfer.is_here = True
        if not transfer.is_fetched:
            self._update_hashing(key, transfer)

    def ended(self, file_id: str, *, is_complete: bool) -> None:
        """Take note that a file is fetched, or will not be."""
        transfer = self._transfers.get(file_id)
        if transfer is None:
            return
        if is_complete:
            transfer.is_here, transfer.done, transfer.rate = False, transfer.size, 0.0
        else:
            del self._transfers[file_id]

    def lines(self) -> list[str]:
        """Return the lines for a terminal of the present size, without their ends."""
        listed = [transfer for transfer in self._transfers.values() if transfer.is_here]
        if not listed:
            return []
        listed.sort(key=lambda transfer: not transfer.rate)  # those that move first
        room = max(1, self._ink.height() - _FREE_ROWS)
        total = self._total()
        shown = listed if len(listed) <= room else listed[: room - 1]
        rows = [*shown, *([] if total is None else [total])]
        lines = self._aligned(rows)
        if len(shown) < len(listed):
            others = self._ink.line((f"and {len(listed) - len(shown)} more", "dim")).rstrip("\n")
            lines.insert(len(shown), others)
        return lines

    def told(self, record: Record) -> str:
        """Return what to tell of progress where lines cannot change: a sentence now and then, or nothing."""
        transfer = self._transfers.get(self._key(record))
        now = self._clock()
        if transfer is None or now < transfer.since + FIRST_TOLD_S:
            return ""
        if transfer.told_at is not None and now < transfer.told_at + TOLD_INTERVAL_S:
            return ""
        transfer.told_at = now
        return f"{transfer.name}: {', '.join(filter(None, transfer.columns))}"

    # --- inside -------------------------------------------------------------------------------------------------

    def _key(self, record: Record) -> str:
        return str(record.get("file_id", record["name"]))

    def _update_hashing(self, key: str, transfer: _Transfer) -> None:
        """Work out the rate, which nobody tells; take it away when it is done."""
        took_s = self._clock() - transfer.since
        transfer.rate = transfer.done / took_s if took_s >= _MIN_MEASURED_S else 0.0
        if transfer.done >= transfer.size:
            del self._transfers[key]

    def _total(self) -> _Transfer | None:
        """Return all that is fetched as if it were one file; None if it is one."""
        fetched = [transfer for transfer in self._transfers.values() if transfer.is_fetched]
        if len(fetched) < 2:
            return None
        complete = sum(not transfer.is_here for transfer in fetched)
        return _Transfer(
            name=f"{complete} of {len(fetched)} files",
            is_fetched=True,
            size=sum(transfer.size for transfer in fetched),
            done=sum(transfer.done for transfer in fetched),
            rate=sum(transfer.rate for transfer in fetched),
            since=0.0,
        )

    def _aligned(self, rows: Sequence[_Transfer]) -> list[str]:
        """Return rows as lines with aligned columns, as wide as the terminal at most."""
        room = self._ink.width() - 1  # a full row may count as two
        cells = [("", *row.columns) for row in rows]
        widths = [_BAR_CELLS, *(max(map(cell_len, column)) for column in list(zip(*cells, strict=True))[1:])]
        name_width = min(_MAX_NAME, max(cell_len(row.name) for row in rows))
        for column in _LESS_IMPORTANT:
            if _width(widths) + _MIN_NAME > room:
                widths[column] = 0
        name_width = max(0, min(name_width, room - _width(widths)))
        return [self._line(row, texts, widths, name_width) for row, texts in zip(rows, cells, strict=True)]

    def _line(self, row: _Transfer, texts: Sequence[str], widths: Sequence[int], name_width: int) -> str:
        pieces: list[Piece] = [(set_cell_size(fitted(row.name, name_width), name_width), "" if row.is_here else "dim")]
        for place, (text, width) in enumerate(zip(texts, widths, strict=True)):
            if place == 0 and width:
                filled = width * row.done // max(row.size, 1)
                pieces += [("  ", ""), ("━" * filled, "green"), ("━" * (width - filled), "bright_black")]
            elif width:
                pieces.append(("  " + " " * (width - cell_len(text)) + text, ""))
        return self._ink.line(*pieces).rstrip("\n")


def _width(widths: Sequence[int]) -> int:
    """Return the cells that columns take, with what is between them."""
    return sum(width + 2 for width in widths if width)
