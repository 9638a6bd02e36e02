"""Every service is ended at each of its checkpoints, while it opens, works and closes: nothing is left, all is whole.

Here are those that use sockets, threads and the real clock; those of a pool are in test_cancelled_pools.py, those of
files in test_cancelled_files.py. How it is done is in cancelling.py.
"""

import hashlib
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from cancelling import FEW, Act, interrupt_everywhere, time_limit
from lane_world import soon
from link_world import POOL as LINK_POOL
from link_world import admit_all, chunk, device
from made_messages import POOL, make_text, make_tombstone

import poolnet
from poolnet.ids import FileId
from poolnet.message_db import open_message_db
from poolnet.net.endpoint import Endpoint, open_endpoint
from poolnet.net.link import Link
from poolnet.pool import hosting
from poolnet.wire.link_frames import Purpose
from poolnet_cli.commands import COMMANDS
from poolnet_cli.control import connect_control, open_control_server, run_remotely
from poolnet_cli.lines import Input
from poolnet_cli.outcome import CommandFailed
from poolnet_cli.reporter import Reporter
from poolnet_cli.runner import Runner
from poolnet_cli.settings import Limits

LOCAL = ("127.0.0.1", 0)
pytestmark = [pytest.mark.usefixtures("own_temporary_directory", "no_power_cuts"), time_limit(240)]


async def test_a_new_home(tmp_path: Path) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        home = directory / "home"

        async def act() -> None:
            async with poolnet.open_node(home, listen=LOCAL) as node:
                node.statistics()

        yield act
        async with poolnet.open_node(home, listen=LOCAL) as node:
            device_id = node.device_id
        async with poolnet.open_node(home, listen=LOCAL) as node:
            assert node.device_id == device_id

    await interrupt_everywhere(trial, tmp_path)


async def test_a_history(tmp_path: Path) -> None:
    texts = [make_text(number, f"text {number}") for number in range(1, 40)]

    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        path, exported, stored = directory / "messages.db", directory / "export.md", set()

        async def act() -> None:
            async with open_message_db(path, POOL, was_admin=lambda *_: True) as db:
                for start in range(0, 30, 10):
                    stored.update(message.msg_id for message in await db.append(texts[start : start + 10]))
                db.append_soon(texts[30])
                stored.add(texts[30].msg_id)
                assert await db.search("text")
                assert await db.sessions()
                await db.export(exported, format="markdown")
                await db.append([make_tombstone(50, texts[3])], durable=True)
                stored.discard(texts[3].msg_id)
                await db.flush()

        yield act
        assert not exported.exists() or exported.read_text().count("text ") >= 31
        async with open_message_db(path, POOL, was_admin=lambda *_: True) as db:
            there = {message.msg_id for message in await db.latest(100)}
            assert stored - there <= {texts[3].msg_id}  # its tombstone may have come
            await db.append(texts)
            assert {message.msg_id for message in await db.latest(100)} >= {text.msg_id for text in texts[4:]}

    await interrupt_everywhere(trial, tmp_path)


async def test_a_chunk_cache(tmp_path: Path) -> None:
    data = b"what others may ask for"
    file_id = FileId(hashlib.sha256(data).digest())

    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        async def act() -> None:
            async with poolnet.open_chunk_cache(directory, size_bytes=64 * 2**20) as cache:
                assert await cache.put(file_id, 0, data, verify=lambda found: found == data)
                assert await cache.get(file_id, 0) == data
                await cache.forget(file_id)

        yield act
        assert os.listdir(directory) == []

    await interrupt_everywhere(trial, tmp_path)


async def test_a_sync_server_that_somebody_uses(tmp_path: Path) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        made: list[poolnet.InviteLink] = []
        async with poolnet.open_node(directory / "home", listen=LOCAL) as node:

            async def act() -> None:
                async with poolnet.open_sync_server(data_dir=directory / "server", listen=LOCAL) as server:
                    made.append(await node.create_pool("garden", server=server.address))

            yield act
            assert len(node.pools()) == len(made)
        async with poolnet.open_sync_server(data_dir=directory / "server", listen=LOCAL) as server:
            assert server.statistics().core.pools == 0

    await interrupt_everywhere(trial, tmp_path, cases=FEW)


@asynccontextmanager
async def open_device(number: int) -> AsyncIterator[Endpoint]:
    """An endpoint with real sockets."""
    async with open_endpoint(key=device(number), listen=LOCAL, authorise=admit_all, rng=random.Random(1)) as endpoint:
        yield endpoint


async def dial(dialler: Endpoint, acceptor: Endpoint, number: int) -> Link:
    """Dial device `number`."""
    return await dialler.dial(
        acceptor.address,
        peer_key=device(number).public_key,
        hello_purpose=Purpose.POOL,
        pool_id=LINK_POOL,
        credentials=(),
        datagram_size=16370,
    )


async def exchange(one: Link, other: Link) -> None:
    """Wait for the lane of a link, then send chunks over it, both ways."""
    for link in (one, other):
        link.set_chunk_filter(lambda _file_id, _piece: True)
    while {one.carrier, other.carrier} != {"tcp"}:  # noqa: ASYNC110 - has no event
        await trio.sleep(0.02)
    for link, peer in ((one, other), (other, one)):
        header, payload = chunk(1)
        await link.send_chunk(header, payload)
        (received,) = await peer.receive_chunks()
        assert received.payload == payload


async def test_links_and_lanes_of_who_dials(tmp_path: Path) -> None:
    async with open_device(1) as there:

        @asynccontextmanager
        async def trial(directory: Path) -> AsyncIterator[Act]:
            async def act() -> None:
                async with open_device(2) as here:
                    link = await dial(here, there, 1)
                    accepted = await there.accept()
                    while accepted.is_closed:  # of an earlier case
                        accepted = await there.accept()
                    await exchange(link, accepted)

            yield act
            await soon(lambda: there.statistics().links == 0)

        await interrupt_everywhere(trial, tmp_path, cases=FEW)


async def test_links_and_lanes_of_who_accepts(tmp_path: Path) -> None:
    async with open_device(1) as there:

        @asynccontextmanager
        async def trial(directory: Path) -> AsyncIterator[Act]:
            async def act() -> None:
                async with open_device(2) as here:
                    link = await dial(there, here, 2)
                    await exchange(link, await here.accept())

            yield act
            await soon(lambda: there.statistics().links == there.statistics().half_open == 0)

        await interrupt_everywhere(trial, tmp_path, cases=FEW)


class Printed:
    """Takes what commands say, and lets others run meanwhile."""

    async def record(self, record: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()

    async def progress(self, record: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()

    async def note(self, text: str) -> None:
        await trio.lowlevel.checkpoint()

    async def data(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()


class Typed:
    """What a user types."""

    def __init__(self, *lines: str) -> None:
        self._lines = iter(lines)

    def __aiter__(self) -> "Typed":
        return self

    async def __anext__(self) -> str:
        await trio.lowlevel.checkpoint()
        for line in self._lines:
            return line
        raise StopAsyncIteration


async def echo(name: str, params: dict[str, Any], reporter: Reporter, given: Input) -> None:
    """A command that says back what it is told."""
    async for line in given.lines:
        await reporter.record({"line": line})
    await reporter.data(b"bytes")


@pytest.mark.parametrize("is_far", [False, True], ids=["short", "long"])
async def test_a_control_socket_and_who_uses_it(tmp_path: Path, is_far: bool) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        home = directory / ("x" * 120) if is_far else directory
        home.mkdir(exist_ok=True)

        async def act() -> None:
            async with open_control_server(home, echo):
                stream = await connect_control(home)
                assert stream is not None
                with suppress(CommandFailed):  # the other end had a bug
                    assert await run_remotely(stream, "echo", {}, Printed(), Input(lines=Typed("one", "two")))

        yield act
        assert os.listdir(home) == []

    await interrupt_everywhere(trial, tmp_path)


async def test_commands_in_the_process_that_holds_a_home(tmp_path: Path) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        (directory / "settings.json").write_text("{}")
        async with open_control_server(directory, echo) as server:
            runner = Runner(commands=COMMANDS, home=directory, bind=LOCAL, limits=Limits(up=1))

            async def act() -> None:
                await runner.run("stream", {}, Printed(), lambda: Input(lines=Typed("one", "two")))

            yield act
            await server.wait_idle()
        assert os.listdir(directory) == ["settings.json"]

    await interrupt_everywhere(trial, tmp_path, keeps=r"control\.sock")


async def test_commands_in_a_process_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "DEFAULT_SERVER_PORT", 0)  # which other tests want, too

    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        home = directory / "home"
        runner = Runner(commands=COMMANDS, home=home, bind=LOCAL)
        run = partial(runner.run, reporter=Printed(), make_input=lambda: Input(lines=Typed("hello", "/quit")))
        await run("create", {"name": "garden", "server": None, "timeout_s": 5.0})

        async def act() -> None:
            params = {"pool": "garden", "name": "Ada", "cwd": str(directory), "timeout_s": 5.0, "rows": None}
            await run("join", params)

        yield act
        await run("status", {"pool": None})

    await interrupt_everywhere(trial, tmp_path, cases=FEW)
