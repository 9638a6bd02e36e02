"""What the demo shows: a live table while it runs, a summary at the end."""

from types import TracebackType
from typing import Any, Final

import attrs
from rich.console import Console
from rich.live import Live
from rich.table import Table

from poolnet_cli.reporter import Record
from poolnet_cli.units import format_duration, format_rate, format_size

_MIB: Final = 1024 * 1024
_BAR_CELLS: Final = 20


@attrs.define
class NodeState:
    """One device of the demo, as seen from outside."""

    name: str
    peers: int = 0
    links: int = 0
    messages: set[str] = attrs.field(factory=set)
    done_bytes: int = 0
    rate: float = 0.0
    is_identical: bool = False


@attrs.define(kw_only=True)
class DemoState:
    """The whole demo. The first node offers the file."""

    nodes: list[NodeState]
    phase: str = "starting"
    size_bytes: int = 0
    total_s: float = 0.0
    transfer_s: float = 0.0
    seeder_sent_bytes: int = 0

    def summary(self) -> Record:
        """Return the judgement and the figures."""
        have_messages = all(len(node.messages) >= len(self.nodes) for node in self.nodes)
        are_identical = all(node.is_identical for node in self.nodes)
        moved = self.size_bytes * (len(self.nodes) - 1)
        return {
            "event": "summary",
            "ok": have_messages and are_identical,
            "nodes": len(self.nodes),
            "messages": len(self.nodes),
            "everyone_has_every_message": have_messages,
            "all_files_identical": are_identical,
            "size": self.size_bytes,
            "seconds": round(self.total_s, 3),
            "transfer_seconds": round(self.transfer_s, 3),
            "rate": round(moved / max(self.transfer_s, 1e-3)),
            "seeder_sent": self.seeder_sent_bytes,
        }


def summary_text(summary: dict[str, Any]) -> str:
    """Return the summary for people."""
    receivers = summary["nodes"] - 1
    size = max(summary["size"], 1)
    lines = (
        f"{_mark(summary['everyone_has_every_message'])} every one of {summary['nodes']} devices has all "
        f"{summary['messages']} messages",
        f"{_mark(summary['all_files_identical'])} all {receivers} copies of {format_size(summary['size'])} are "
        "identical to the original (BLAKE3)",
        f"  {format_duration(summary['transfer_seconds'])} for {receivers} copies at once: "
        f"{format_rate(summary['rate'])} in all",
        f"  the one that offered it sent {format_size(summary['seeder_sent'])}, "
        f"{summary['seeder_sent'] / size:.2f} times the file; the rest came from the others",
        f"  {format_duration(summary['seconds'])} from the first process to here",
    )
    return "".join(line + "\n" for line in lines)


def _mark(is_good: bool) -> str:
    return "✓" if is_good else "✗"


class DemoView:
    """The live table on standard error; where that is no terminal, a line when a new phase begins."""

    def __init__(self, state: DemoState) -> None:
        self._state = state
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._told = ""

    def __enter__(self) -> "DemoView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refresh()
        self._live.stop()

    def refresh(self) -> None:
        """Draw the present state."""
        if self._console.is_terminal:
            self._live.update(self._table(), refresh=True)
        elif self._told != self._state.phase:
            self._told = self._state.phase
            self._console.print(f"{self._told} …", markup=False, highlight=False)

    def _table(self) -> Table:
        state = self._state
        table = Table(title=f"{len(state.nodes)} devices, one pool: {state.phase}", title_justify="left")
        for heading in ("node", "links", "messages", "file", "rate"):
            table.add_column(heading, justify="left" if heading in ("node", "file") else "right")
        for node in state.nodes:
            share = node.done_bytes / state.size_bytes if state.size_bytes else 0.0
            filled = round(share * _BAR_CELLS)
            table.add_row(
                node.name,
                str(node.links),
                f"{len(node.messages)}/{len(state.nodes)}",
                f"{'█' * filled}{'·' * (_BAR_CELLS - filled)} {share:4.0%}",
                format_rate(node.rate) if node.rate else "",
            )
        return table
