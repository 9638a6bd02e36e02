"""Other poolnet processes, started by this one: their events come in as records, and they end when the block ends."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from poolnet.errors import WireError
from poolnet.json_text import decode_json_untrusted
from poolnet_cli.lines import LineSplitter
from poolnet_cli.outcome import FAILED, CommandFailed, Outcome
from poolnet_cli.reporter import Record

#: How long a process may take to say goodbye before it is killed.
_GRACE_S: Final = 5.0
#: Characters of what is no record that are told.
_SHOWN: Final = 80


class Child:
    """A poolnet process with ``--json``.

    Attributes:
        name: what to call it in messages.
        events: every record that it printed so far.
    """

    def __init__(self, name: str, process: trio.Process, errors: Path, listener: Callable[[Record], None]) -> None:
        self.name = name
        self.events: list[Record] = []
        self._process = process
        self._errors = errors
        self._listener = listener
        self._waiters = trio.lowlevel.ParkingLot()
        self._has_ended = False

    async def type_line(self, line: str) -> None:
        """Type a line into it."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line.encode() + b"\n")

    async def wait_for(self, is_it: Callable[[Record], bool]) -> Record:
        """Return the first record for which `is_it` is true, waiting for it.

        Raises:
            CommandFailed: the process ended without it.
        """
        seen = 0
        while True:
            for record in self.events[seen:]:
                if is_it(record):
                    return record
            seen = len(self.events)
            if self._has_ended:
                raise CommandFailed(
                    Outcome(exit_code=FAILED, code="process_ended", message=f"{self.name} ended: {self._last_words()}")
                )
            await self._waiters.park()

    async def read_output(self) -> None:
        """Take in what it prints until it ends."""
        assert self._process.stdout is not None
        splitter = LineSplitter()
        async with self._process.stdout:
            async for data in self._process.stdout:
                for line in splitter.feed(bytes(data)):
                    self._take(_record(line))
        self._has_ended = True
        self._waiters.unpark_all()

    def _take(self, record: Record) -> None:
        self.events.append(record)
        self._listener(record)
        self._waiters.unpark_all()

    def _last_words(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("poolnet: ") if lines else "it said nothing"

    def signal_end(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    async def wait_ended(self) -> None:
        """Wait until it has ended; kill it if that takes too long."""
        with trio.move_on_after(_GRACE_S):
            await self._process.wait()
        if self._process.poll() is None:
            self._process.kill()
            await self._process.wait()


class Children:
    """The processes of one run. Made by `open_children`."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self._directory = directory
        self._nursery = nursery
        self._children: list[Child] = []

    async def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        home: Path,
        environment: Mapping[str, str],
        listener: Callable[[Record], None] = lambda record: None,
    ) -> Child:
        """Start ``poolnet --json ARGUMENTS``.

        Args:
            environment: variables on top of this process's, whose POOLNET_ ones are left out.
            listener: is called with every record that it prints.
        """
        errors = self._directory / f"{name}.err"
        with errors.open("ab") as stderr:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "poolnet_cli", "--json", "--home", str(home), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_clean_environment() | dict(environment),
                start_new_session=True,  # Ctrl-C is for us; we end them
            )
        child = Child(name, process, errors, listener)
        self._children.append(child)
        self._nursery.start_soon(child.read_output)
        return child

    async def end_all(self) -> None:
        """End all processes; the goodbyes take a few seconds at most."""
        for child in self._children:
            child.signal_end()
        async with trio.open_nursery() as nursery:
            for child in self._children:
                nursery.start_soon(child.wait_ended)


def _record(line: str) -> Record:
    """Return what a process has printed.

    Raises:
        CommandFailed: it is no record.
    """
    try:
        value = decode_json_untrusted(line)
    except WireError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("event", ""), str):
        raise CommandFailed(
            Outcome(exit_code=FAILED, code="malformed_output", message=f"a process printed no record: {line[:_SHOWN]}")
        )
    return value


def _clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("POOLNET_")}


@asynccontextmanager
async def open_children(directory: Path) -> AsyncIterator[Children]:
    """Start processes in the block; whatever ends it, they have ended afterwards.

    Args:
        directory: for what they print on standard error.
    """
    async with trio.open_nursery() as nursery:
        children = Children(directory, nursery)
        try:
            yield children
        finally:
            with trio.CancelScope(shield=True):  # bounded by _GRACE_S, then they are killed
                await children.end_all()
            nursery.cancel_scope.cancel()
