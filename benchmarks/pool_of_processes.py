"""A pool of member processes over loopback, driven by a benchmark."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

LOOPBACK = "127.0.0.1"
_END_S = 5


class MemberProcess:
    """A member in a process of its own. Made by `open_member`.

    Attributes:
        linked: what it said of its links when the pool was complete.
    """

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""
        self.linked: dict[str, Any] = {}

    async def tell(self, do: str, **fields: Any) -> None:
        """Give a command."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"do": do, **fields}).encode() + b"\n")

    async def hear(self, event: str) -> dict[str, Any]:
        """Return the next event of that kind; others before it are passed over."""
        while True:
            row = await self._next()
            if row["event"] == event:
                return row

    async def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            piece = await self._process.stdout.receive_some()
            if not piece:
                raise RuntimeError("a member process ended early")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        row: dict[str, Any] = json.loads(line)
        return row


@asynccontextmanager
async def open_member(
    home: Path, target: str, name: str, *, host: str = LOOPBACK, under: Sequence[str] = (), **options: Any
) -> AsyncIterator[MemberProcess]:
    """Start a member; it ends with the block.

    Args:
        host: the address that it listens on.
        under: the command that runs it elsewhere, in a network namespace say.
        options: what else `poolnet.open_node` takes.
    """
    arguments = json.dumps({"home": str(home), "target": target, "name": name, "host": host, **options})
    command = [*under, sys.executable, "-m", "benchmarks.member", arguments]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    try:
        yield MemberProcess(process)
    finally:
        with trio.move_on_after(_END_S, shield=True):
            await process.stdin.aclose()
            await process.wait()
        process.kill()


@attrs.frozen(kw_only=True)
class Host:
    """Where a member runs: its address, and the command that runs something there."""

    address: str = LOOPBACK
    under: Sequence[str] = ()


@asynccontextmanager
async def open_pool(
    directory: Path, count: int, *, links: int | None = None, hosts: Sequence[Host] = (), **options: Any
) -> AsyncIterator[list[MemberProcess]]:
    """Start `count` members of one pool; the first one hosts its server.

    Args:
        links: wait until each has at least so many; None: until all are linked with each other.
        hosts: where they run; all on loopback if there are none.
        options: what else `poolnet.open_node` takes, for all of them.
    """
    places = list(hosts) or [Host()] * count
    async with AsyncExitStack() as stack:

        async def start(target: str, number: int) -> MemberProcess:
            member = open_member(
                directory / f"home{number}",
                target,
                f"member {number}",
                host=places[number].address,
                under=places[number].under,
                **options,
            )
            return await stack.enter_async_context(member)

        members = [await start("create", 0)]
        invite = (await members[0].hear("invite"))["invite"]
        members.extend([await start(invite, number) for number in range(1, count)])
        for member in members:
            await member.hear("joined")
            await member.tell("wait_links", count=count - 1 if links is None else links)
        for member in members:
            member.linked = await member.hear("linked")
        yield members
