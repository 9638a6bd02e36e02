"""One place in a soak: process after process in one home, its reports read line by line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any, Final

import attrs
import trio

Row = dict[str, Any]

#: How long a process that was asked to end may take, on a busy machine, before it counts as stuck.
_END_S: Final = 60.0


@attrs.define
class _Run:
    """One process of a program."""

    process: trio.Process
    ended: trio.Event = attrs.Factory(trio.Event)
    is_end_expected: bool = False
    was_killed: bool = False


class Program:
    """A program that is started again and again. Its standard error goes to a file.

    Args:
        name: what it is called in what is told of it.
        arguments: after ``python``.
        directory: where its standard error goes.
        hear: is called with each report, in order.
        ready: the report that says that it is up.
        end_by_signal: it ends at SIGTERM; otherwise when its input ends.

    Attributes:
        is_up: it has said `ready` and has not ended.
        wrong: ends that nobody asked for, and those that were no good ones.
        incarnation: how often it was started.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        directory: Path,
        nursery: trio.Nursery,
        ready: str,
        hear: Callable[["Program", Row], None],
        end_by_signal: bool = False,
    ) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.log = directory / f"{name}.stderr"
        self.is_up = False
        self.wrong: list[str] = []
        self.incarnation = 0
        self._nursery = nursery
        self._ready = ready
        self._hear = hear
        self._end_by_signal = end_by_signal
        self._run: _Run | None = None
        self._is_starting = False
        self._changed = trio.Event()
        self._answers: dict[int, Row | None] = {}
        self._tickets = 0
        self._typing = trio.Lock()  # a frozen process leaves its input full

    @property
    def pid(self) -> int | None:
        """Of the process that is running, if one is."""
        return None if self._run is None else self._run.process.pid

    async def start(self) -> None:
        """Start it, unless it is running; it `is_up` a moment later. One that is ending is waited for."""
        if self._run is not None and self._run.is_end_expected:
            await self._run.ended.wait()
        if self._run is not None or self._is_starting:
            return
        self._is_starting = True
        try:
            run = self._run = _Run(await self._spawn())
        finally:
            self._is_starting = False
        self._nursery.start_soon(self._follow, run)

    async def wait_up(self) -> None:
        """Wait until it `is_up`."""
        while not self.is_up:
            await self._changed.wait()

    async def ask(self, do: str, **fields: Any) -> Row | None:
        """Give a command and return the answer; None if it ended before."""
        run = self._run
        if run is None or not self.is_up:
            return None
        self._tickets += 1
        ticket = self._tickets
        line = json.dumps({"do": do, "ticket": ticket, **fields}).encode() + b"\n"
        assert run.process.stdin is not None
        try:
            async with self._typing:
                await run.process.stdin.send_all(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        while ticket not in self._answers:
            if self._run is not run:
                return None
            await self._changed.wait()
        return self._answers.pop(ticket)

    async def kill(self) -> None:
        """End it at once, and return when it has ended."""
        run = self._run
        if run is not None:
            self.is_up = False
            run.is_end_expected = run.was_killed = True
            run.process.kill()
            await run.ended.wait()

    async def end(self) -> None:
        """End it as it should end, and return when it has ended; what was not as it should be is `wrong`."""
        run = self._run
        if run is None:
            return
        self.is_up = False
        run.is_end_expected = True
        run.process.send_signal(SIGCONT)
        assert run.process.stdin is not None
        if self._end_by_signal:
            run.process.send_signal(SIGTERM)
        else:
            await run.process.stdin.aclose()
        with trio.move_on_after(_END_S):
            await run.ended.wait()
            code = run.process.returncode
            if code != 0 and not run.was_killed:
                self.wrong.append(f"{self.name} was asked to end, and ended with {code}; see {self.log}")
            return
        self.wrong.append(f"{self.name} did not end within {_END_S:g} s")
        await self.kill()

    def freeze(self) -> None:
        """Stop it."""
        if self._run is not None:
            self._run.process.send_signal(SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        if self._run is not None:
            self._run.process.send_signal(SIGCONT)

    async def _spawn(self) -> trio.Process:
        self.incarnation += 1
        command = [sys.executable, "-W", "default::ResourceWarning", "-X", "faulthandler", *self.arguments]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("POOLNET_")}
        with self.log.open("ab") as log:
            return await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    async def _follow(self, run: _Run) -> None:
        """Hear what a process reports until it ends."""
        process = run.process
        try:
            assert process.stdout is not None
            rest = b""
            async for piece in process.stdout:
                *lines, rest = (rest + bytes(piece)).split(b"\n")
                for line in lines:
                    self._take(run, json.loads(line))
            code = await process.wait()
        except BaseException:
            process.kill()
            raise
        self._run = None
        self.is_up = False
        run.ended.set()
        self._wake()
        if not run.is_end_expected:
            self.wrong.append(f"{self.name} ended by itself with {code}; see {self.log}")

    def _take(self, run: _Run, row: Row) -> None:
        if row["event"] == "done":  # no command of poolnet's says that
            self._answers[row["ticket"]] = row
        if row["event"] == self._ready and not run.is_end_expected:
            self.is_up = True
        self._hear(self, row)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
