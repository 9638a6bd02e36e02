"""Two devices with real sockets on loopback, and links between them that have lanes."""

import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from link_world import POOL, admit_all, device

from poolnet.net.bulk_lane import BulkLane
from poolnet.net.endpoint import Endpoint, open_endpoint
from poolnet.net.link import Link
from poolnet.wire.link_frames import Purpose


class LanePair:
    """A link, from both ends."""

    def __init__(self, first: Endpoint, second: Endpoint, dialled: Link, accepted: Link) -> None:
        self.first, self.second = first, second
        self.dialled, self.accepted = dialled, accepted
        for link in (dialled, accepted):
            link.set_chunk_filter(lambda _file_id, _piece: True)

    async def up(self) -> None:
        """Wait until chunks go over TCP both ways."""
        await soon(lambda: self.dialled.carrier == self.accepted.carrier == "tcp")

    async def down(self) -> None:
        """Wait until they do not."""
        await soon(lambda: self.dialled.carrier == self.accepted.carrier == "quic")


async def soon(condition: Callable[[], bool], *, limit_s: float = 10.0) -> None:
    """Wait, in real time, until something holds."""
    with trio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110  # of things that tell nobody
            await trio.sleep(0.002)


@asynccontextmanager
async def open_lanes(
    *, first_tcp: bool = True, second_tcp: bool = True, purpose: Purpose = Purpose.POOL
) -> AsyncIterator[LanePair]:
    """Device 1 dials device 2."""
    local = ("127.0.0.1", 0)
    async with (
        open_endpoint(key=device(1), listen=local, authorise=admit_all, rng=random.Random(1), tcp=first_tcp) as first,
        open_endpoint(key=device(2), listen=local, authorise=admit_all, rng=random.Random(2), tcp=second_tcp) as second,
    ):
        dialled = await first.dial(
            second.address,
            peer_key=device(2).public_key,
            hello_purpose=purpose,
            pool_id=POOL,
            credentials=(),
            datagram_size=16370,
        )
        yield LanePair(first, second, dialled, await second.accept())


def lane_of(link: Link) -> BulkLane:
    """The lane of a link that has one."""
    lane = link.chunks._lane
    assert lane is not None
    return lane


def cut(link: Link) -> None:
    """End the TCP connection of a link as a network would."""
    socket.socket.shutdown(lane_of(link)._tls._socket, socket.SHUT_RDWR)  # and not that of TLS
