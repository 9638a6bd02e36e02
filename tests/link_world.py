"""Endpoints of a few devices over a network in memory, and links between them."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from poolnet.identity.keys import DeviceKey
from poolnet.ids import FileId, PoolId
from poolnet.limits import CHUNK_SIZE
from poolnet.net.endpoint import Authorise, Endpoint, open_endpoint
from poolnet.net.link import Link
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.link_frames import Hello, Purpose
from poolnet.wire.pool_frames import GossipHave
from poolnet.wire.swarm_frames import ChunkHeader

POOL = PoolId(b"p" * 32)
FILE = FileId(b"f" * 32)


def device(number: int) -> DeviceKey:
    """The key of device `number`."""
    return DeviceKey(bytes([number]) * 32)


def admit_all(_hello: Hello) -> tuple[bytes, ...]:
    """Let everyone in."""
    return (b"our credentials",)


class LinkWorld:
    """A network and the endpoints on it."""

    def __init__(self, network: MemoryNetwork, nursery: trio.Nursery) -> None:
        self.network = network
        self._nursery = nursery

    async def open(self, number: int, *, authorise: Authorise = admit_all, port: int = 1000) -> Endpoint:
        """Open the endpoint of device `number`, at 10.0.0.number."""
        endpoint: Endpoint = await self._nursery.start(self._run, number, authorise, port)
        return endpoint

    async def _run(
        self, number: int, authorise: Authorise, port: int, *, task_status: trio.TaskStatus[Endpoint]
    ) -> None:
        async with open_endpoint(
            key=device(number),
            listen=(f"10.0.0.{number}", port),
            authorise=authorise,
            rng=random.Random(number),
            open_socket=self.network.open_socket,
        ) as endpoint:
            task_status.started(endpoint)
            await trio.sleep_forever()

    async def dial(
        self,
        dialler: Endpoint,
        acceptor: Endpoint,
        *,
        key: int,
        datagram_size: int = 1200,
        purpose: Purpose = Purpose.POOL,
    ) -> Link:
        """Dial, pinning the key of device `key`."""
        return await dialler.dial(
            acceptor.address,
            peer_key=device(key).public_key,
            hello_purpose=purpose,
            pool_id=POOL,
            credentials=(b"my credentials",),
            datagram_size=datagram_size,
        )

    async def pair(self, *, datagram_size: int = 1200) -> tuple[Link, Link]:
        """Open devices 1 and 2 and return both ends of a link that 1 dialled."""
        first, second = await self.open(1), await self.open(2)
        link = await self.dial(first, second, key=2, datagram_size=datagram_size)
        return link, await second.accept()


@asynccontextmanager
async def open_world(network: MemoryNetwork) -> AsyncIterator[LinkWorld]:
    """A world that is closed at the end."""
    async with trio.open_nursery() as nursery:
        yield LinkWorld(network, nursery)
        nursery.cancel_scope.cancel()


def near(value: float) -> Any:
    """Stands for any float near `value`."""
    return pytest.approx(value)


def filler(size: int, number: int = 0) -> GossipHave:
    """A frame of about `size` bytes, told apart by `number`."""
    return GossipHave(ids=tuple([number.to_bytes(32, "big")] * max(1, size // 34)))  # type: ignore[list-item]


def chunk(piece: int, size: int = CHUNK_SIZE) -> tuple[ChunkHeader, bytes]:
    """A chunk with bytes of its own."""
    return ChunkHeader(file_id=FILE, piece=piece, size=size), random.Random(piece).randbytes(size)


async def send_chunks(link: Link, pieces: range, size: int = CHUNK_SIZE) -> None:
    """Send chunks one after the other."""
    for piece in pieces:
        await link.send_chunk(*chunk(piece, size))


async def collect_chunks(link: Link, count: int) -> dict[int, bytes]:
    """Receive `count` chunks."""
    received: dict[int, bytes] = {}
    while len(received) < count:
        received.update((item.header.piece, item.payload) for item in await link.receive_chunks())
    return received


async def wait_until(condition: Callable[[], bool], *, step_s: float = 0.01, limit_s: float = 60.0) -> None:
    """Let (jumping) time pass until something holds."""
    with trio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110  # of things that tell nobody
            await trio.sleep(step_s)
