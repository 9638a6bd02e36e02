"""A dialler in memory that says what it likes, and how to see that others are served all the same."""

from typing import Any, Self

import attrs
import trio
from hostile_quic import HostileQuic
from link_world import LinkWorld

from poolnet.identity.keys import DeviceKey
from poolnet.ids import PoolId, PublicKey
from poolnet.net.connection import Connection
from poolnet.net.endpoint import Endpoint
from poolnet.net.link import Link
from poolnet.net.quic_settings import dialling_settings
from poolnet.testing.memory_udp import MemoryNetwork, MemoryUdpSocket
from poolnet.wire.framing import FrameBuffer, FrameSet
from poolnet.wire.link_frames import Goodbye, Hello, Proof, Purpose
from poolnet.wire.pool_frames import Prune

POOL, OTHER_POOL = PoolId(b"p" * 32), PoolId(b"q" * 32)
_FRAMES = FrameSet((Hello, Proof, Goodbye))


@attrs.define
class Stranger:
    """A dialler that says what it likes; `heard` are the frames that it was told."""

    socket: MemoryUdpSocket
    quic: HostileQuic
    heard: list[Any] = attrs.Factory(list)
    _buffer: FrameBuffer = attrs.Factory(FrameBuffer)

    @classmethod
    async def dial(cls, network: MemoryNetwork, target: tuple[str, int], *, peer: PublicKey) -> Self:
        """Shake hands as far as QUIC goes."""
        quic = HostileQuic(configuration=dialling_settings(peer, datagram_size=1200))
        quic.connect(target, trio.current_time())
        stranger = cls(network.open_socket(("::", 0)), quic)
        await stranger.turn()
        return stranger

    async def turn(self, for_s: float = 0.2) -> None:
        """Exchange datagrams for a while."""
        until = trio.current_time() + for_s
        while trio.current_time() < until:
            for data, address in self.socket.receive_batch():
                self.quic.receive_datagram(data, address, trio.current_time())
            timer = self.quic.get_timer()
            if timer is not None and trio.current_time() >= timer:
                self.quic.handle_timer(trio.current_time() + 1e-6)
            while (event := self.quic.next_event()) is not None:
                self._buffer.feed_untrusted(getattr(event, "data", b""))
            while (payload := self._buffer.take()) is not None:
                self.heard.append(_FRAMES.decode_untrusted(payload))
            self.socket.send_batch(self.quic.datagrams_to_send(trio.current_time()))
            await trio.sleep(0.01)

    async def say(self, data: bytes) -> None:
        """Write on the control stream and wait for what comes of it."""
        self.quic.send_stream_data(0, data)
        await self.turn()


def hello_of(key: DeviceKey, *, pool: PoolId = POOL, purpose: Purpose = Purpose.POOL, number: int = 1) -> Hello:
    """The first frame of a dialler; `number` makes its nonce."""
    return Hello(
        purpose=int(purpose), pool_id=pool, public_key=key.public_key, nonce=bytes([number]) * 32, credentials=()
    )


async def still_serves(world: LinkWorld, dialler: Endpoint, acceptor: Endpoint) -> None:
    """An honest link comes up, carries a frame, and is the only one."""
    link = await world.dial(dialler, acceptor, key=2)
    accepted = await acceptor.accept()
    link.post_frame(Prune())
    assert await accepted.receive_frame() == Prune()
    assert acceptor.statistics().links == 1
    await link.aclose()


def connection_of(link: Link) -> Connection:
    """The connection under a link."""
    assert isinstance(link._transport, Connection)
    return link._transport


def quic_of(link: Link) -> HostileQuic:
    """QUIC under a link, which can be made to say anything."""
    quic = connection_of(link)._quic
    assert isinstance(quic, HostileQuic)
    return quic
