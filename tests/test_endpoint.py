"""Endpoints: dialling, pinning, refusing, probing, floods. Real QUIC over a network in memory, in jumping time."""

import gc
import random
import secrets

import attrs
import pytest
import trio
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from aioquic.tls import Context as TlsContext
from link_world import POOL, admit_all, collect_chunks, device, near, open_world, send_chunks, wait_until
from trio.testing import MockClock

from poolnet.errors import AddressInUse, LinkClosed, ProtocolError, Refused, Unreachable
from poolnet.limits import (
    DIAL_TIMEOUT_S,
    MAX_HALF_OPEN,
    MAX_UNACCEPTED_LINKS,
    PRE_AUTH_TIMEOUT_S,
    RETRY_ABOVE_HALF_OPEN,
)
from poolnet.net.endpoint import Path, open_endpoint
from poolnet.net.quic_settings import dialling_settings
from poolnet.testing.memory_udp import MemoryNetwork, MemoryUdpSocket
from poolnet.wire.framing import encode_frame
from poolnet.wire.link_frames import Hello, Proof, Purpose
from poolnet.wire.pool_frames import Prune
from poolnet.wire.sync_frames import Address, Attach


async def test_a_dialler_that_expects_another_key_gets_no_link(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(1)) as world:
        first, second = await world.open(1), await world.open(2)
        with pytest.raises(ProtocolError):
            await world.dial(first, second, key=3)
        assert second.statistics().links == 0


async def test_nobody_there_is_unreachable_in_bounded_time(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(2)) as world:
        first, second = await world.open(1), await world.open(2)
        world.network.silence(second.address)
        started = trio.current_time()
        with pytest.raises(Unreachable):
            await world.dial(first, second, key=2)
        assert trio.current_time() - started == pytest.approx(DIAL_TIMEOUT_S, abs=0.5)
        await wait_until(lambda: first.statistics().connections == 0)


async def test_a_refusal_tells_its_code(autojump_clock: trio.abc.Clock) -> None:
    def refuse(hello: Hello) -> tuple[bytes, ...]:
        assert hello.credentials == (b"my credentials",)
        raise Refused("you are not a member", code="not_a_member")

    async with open_world(MemoryNetwork(3)) as world:
        first, second = await world.open(1), await world.open(2, authorise=refuse)
        with pytest.raises(Refused, match="not a member") as refusal:
            await world.dial(first, second, key=2)
        assert refusal.value.code == "not_a_member"
        await wait_until(lambda: second.statistics().half_open == 0)


async def test_a_cancelled_dial_leaves_nothing_behind(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(4)) as world:
        first, second = await world.open(1), await world.open(2)
        with trio.move_on_after(0.03):
            await world.dial(first, second, key=2)
        await wait_until(lambda: first.statistics().connections == second.statistics().connections == 0)


async def test_the_addresses_of_a_host_name_are_tried_in_turn(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(address: tuple[str, int]) -> list[tuple[str, int]]:
        assert address == ("a.name", 7)
        await trio.lowlevel.checkpoint()
        return [("10.9.9.9", 7), ("127.0.0.1", 7)]

    monkeypatch.setattr("poolnet.net.endpoint.resolve", look_up)
    async with open_world(MemoryNetwork(5)) as world:
        first = await world.open(1)
        network = world.network
        async with open_endpoint(
            key=device(2),
            listen=("127.0.0.1", 7),
            authorise=admit_all,
            rng=random.Random(2),
            open_socket=network.open_socket,
        ):
            link = await first.dial(
                ("a.name", 7),
                peer_key=device(2).public_key,
                hello_purpose=Purpose.SYNC,
                pool_id=POOL,
                credentials=(),
            )
            assert link.remote_address == ("127.0.0.1", 7)


async def test_sync_links_speak_frames_of_their_own(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(6)) as world:
        first, second = await world.open(1), await world.open(2)
        dialled = await world.dial(first, second, key=2, purpose=Purpose.SYNC)
        accepted = await second.accept()
        dialled.post_frame(Attach(last_epoch=7))
        assert await accepted.receive_frame() == Attach(last_epoch=7)


@pytest.mark.parametrize(("mtu_size", "size"), [(65507, 16370), (1472, 1452), (1300, 1200)])
async def test_probing_finds_the_size_and_both_sides_use_it(
    autojump_clock: trio.abc.Clock, mtu_size: int, size: int
) -> None:
    async with open_world(MemoryNetwork(7, mtu_size=mtu_size)) as world, trio.open_nursery() as nursery:
        first, second = await world.open(1), await world.open(2)
        session, key = b"8 bytes!", secrets.token_bytes(32)
        nowhere = Address(host="10.9.9.9", port=9)
        paths: list[Path] = []

        async def find(candidates: tuple[Address, ...]) -> None:
            paths.append(await second.probe(session=session, key=key, candidates=candidates, timeout_s=3))

        nursery.start_soon(find, (nowhere, *first.candidates()))
        path = await first.probe(session=session, key=key, candidates=(nowhere, *second.candidates()), timeout_s=3)
        assert path == Path(second.address, size, near(0.02))
        dialled = await world.dial(first, second, key=2, datagram_size=path.datagram_size)
        accepted = await second.accept()
        assert (dialled.datagram_size, accepted.datagram_size) == (size, size)
        accepted.set_chunk_filter(lambda _file_id, _piece: True)
        nursery.start_soon(send_chunks, dialled, range(4))
        assert len(await collect_chunks(accepted, 4)) == 4
        assert paths == [Path(first.address, size, near(0.02))]


async def test_probing_with_another_key_finds_nothing(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(8)) as world, trio.open_nursery() as nursery:
        first, second = await world.open(1), await world.open(2)

        async def find(key: bytes) -> None:
            with pytest.raises(Unreachable):
                await second.probe(session=b"8 bytes!", key=key, candidates=first.candidates(), timeout_s=2)

        nursery.start_soon(find, b"b" * 32)
        with pytest.raises(Unreachable):
            await first.probe(session=b"8 bytes!", key=b"a" * 32, candidates=second.candidates(), timeout_s=2)
        assert first.statistics().probe_packets_dropped > 0


@attrs.define
class RawDialler:
    """A hand-driven QUIC client, for saying what an endpoint never would."""

    socket: MemoryUdpSocket
    quic: QuicConnection
    target: tuple[str, int]
    packet_types: list[QuicPacketType] = attrs.Factory(list)

    @classmethod
    def open(cls, network: MemoryNetwork, target: tuple[str, int], *, peer: int, host: str = "::") -> "RawDialler":
        quic = QuicConnection(configuration=dialling_settings(device(peer).public_key, datagram_size=1200))
        quic.connect(target, trio.current_time())
        dialler = cls(network.open_socket((host, 0)), quic, target)
        dialler.send()
        return dialler

    def send(self) -> None:
        self.socket.send_batch(self.quic.datagrams_to_send(trio.current_time()))

    async def turn(self, limit_s: float = 0.1) -> list[object]:
        """Exchange datagrams for a while; return what happened."""
        events: list[object] = []
        with trio.move_on_after(limit_s):
            while True:
                await self.socket.wait_readable()
                for data, address in self.socket.receive_batch():
                    self.packet_types.append(pull_quic_header(Buffer(data=data), host_cid_length=8).packet_type)
                    self.quic.receive_datagram(data, address, trio.current_time())
                while (event := self.quic.next_event()) is not None:
                    events.append(event)
                self.send()
        return events


async def test_a_flood_of_half_open_connections_must_return_tokens(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(9)) as world:
        first, second = await world.open(1), await world.open(2)
        flood = [RawDialler.open(world.network, second.address, peer=2) for _ in range(RETRY_ABOVE_HALF_OPEN)]
        await trio.sleep(0.05)
        assert second.statistics().half_open == RETRY_ABOVE_HALF_OPEN
        late = RawDialler.open(world.network, second.address, peer=2)
        await trio.sleep(0.05)
        assert second.statistics().retries_sent == 1
        assert second.statistics().half_open == RETRY_ABOVE_HALF_OPEN  # nothing is kept for who has not answered
        assert any(isinstance(event, HandshakeCompleted) for event in await late.turn())
        assert QuicPacketType.RETRY in late.packet_types
        link = await world.dial(first, second, key=2)  # an honest one gets through
        assert second.statistics().retries_sent == 2
        assert not link.is_closed
        await trio.sleep(PRE_AUTH_TIMEOUT_S + 3)
        assert second.statistics().half_open == 0
        assert len(flood) == RETRY_ABOVE_HALF_OPEN


async def test_the_number_of_half_open_connections_has_an_end(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolnet.net.admission.MAX_HALF_OPEN", 8)
    assert MAX_HALF_OPEN > 8
    async with open_world(MemoryNetwork(10)) as world:
        second = await world.open(2)
        for _ in range(20):
            RawDialler.open(world.network, second.address, peer=2)
        await trio.sleep(0.05)
        assert second.statistics().half_open == 8
        assert second.statistics().unknown_datagrams == 12


async def test_an_unknown_version_is_answered_with_ours(autojump_clock: trio.abc.Clock) -> None:
    network = MemoryNetwork(11)
    async with open_world(network) as world:
        second = await world.open(2)
        probe = network.open_socket(("::", 0))
        packet = bytes([0xC0, 0x0A, 0x0A, 0x0A, 0x0A, 8]) + bytes(8) + bytes([8]) + bytes(8)
        probe.send_batch([(packet.ljust(1200, b"\x00"), second.address), (packet.ljust(600, b"\x00"), second.address)])
        await trio.sleep(0.1)
        answers = probe.receive_batch()
        assert len(answers) == 1  # none for the short one
        header = pull_quic_header(Buffer(data=answers[0][0]), host_cid_length=8)
        assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
        assert header.supported_versions == [1]
        assert second.statistics().connections == 0


@pytest.mark.parametrize("seed", range(3))
async def test_noise_is_counted_and_harmless(autojump_clock: trio.abc.Clock, seed: int) -> None:
    rng = random.Random(seed)
    async with open_world(MemoryNetwork(12)) as world:
        first, second = await world.open(1), await world.open(2)
        link = await world.dial(first, second, key=2)
        accepted = await second.accept()
        noise = world.network.open_socket(("::", 0))
        for _ in range(300):
            data = rng.randbytes(rng.randrange(1, 1500))
            noise.send_batch([(data, second.address)])
        await trio.sleep(1)
        assert second.statistics().unknown_datagrams > 100
        link.post_frame(Prune())
        assert await accepted.receive_frame() == Prune()


@pytest.mark.parametrize(
    ("first_frame", "stream_id"),
    [
        (b"", 0),
        (encode_frame(Proof(signature=bytes(64))), 0),
        (encode_frame(Prune()), 0),
        (b"a chunk, perhaps", 2),
        (b"another stream", 4),
    ],
    ids=["nothing", "a proof out of turn", "a frame of a link", "a chunk stream", "a second control stream"],
)
async def test_without_the_proof_nothing_is_accepted_and_the_time_is_short(
    autojump_clock: trio.abc.Clock, first_frame: bytes, stream_id: int
) -> None:
    async with open_world(MemoryNetwork(13)) as world:
        second = await world.open(2)
        raw = RawDialler.open(world.network, second.address, peer=2)
        assert any(isinstance(event, HandshakeCompleted) for event in await raw.turn())
        assert second.statistics().half_open == 1
        if first_frame:
            raw.quic.send_stream_data(stream_id, first_frame)
            raw.send()
        await raw.turn(PRE_AUTH_TIMEOUT_S + 2)
        assert second.statistics().links == 0
        assert second.statistics().half_open == 0


async def test_a_stranger_gets_no_memory(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(14)) as world:
        second = await world.open(2)
        raw = RawDialler.open(world.network, second.address, peer=2)
        await raw.turn()
        raw.quic.send_stream_data(0, (60_000).to_bytes(4, "big") + bytes(59_000))
        raw.quic.send_stream_data(0, bytes(1_000_000))
        raw.send()
        await raw.turn(2)
        assert second.statistics().half_open == 0
        assert second.statistics().udp.bytes_in < 400_000


async def test_links_that_nobody_accepts_are_bounded(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolnet.net.endpoint.MAX_UNACCEPTED_LINKS", 3)
    assert MAX_UNACCEPTED_LINKS > 3
    async with open_world(MemoryNetwork(15)) as world:
        first, second = await world.open(1), await world.open(2)
        links = [await world.dial(first, second, key=2) for _ in range(4)]
        with pytest.raises(LinkClosed):
            await links[3].receive_frame()
        assert links[3].close_reason is not None
        assert links[3].close_reason.startswith("busy")
        assert second.statistics().links_not_accepted == 1
        assert not links[0].is_closed


async def test_closing_an_endpoint_says_goodbye_to_all(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(16)) as world:
        first = await world.open(1)
        async with open_endpoint(
            key=device(2),
            listen=("10.0.0.2", 2),
            authorise=admit_all,
            rng=random.Random(2),
            open_socket=world.network.open_socket,
        ) as second:
            links = [await world.dial(first, second, key=2) for _ in range(3)]
            started = trio.current_time()
        assert trio.current_time() - started < 0.2
        for link in links:
            assert link.close_reason == "done"


async def test_a_link_that_ended_holds_nothing_of_quic_until_somebody_collects_cycles(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with open_world(MemoryNetwork(30)) as world:
        first, second = await world.open(1), await world.open(2)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                link = await world.dial(first, second, key=2)
                accepted = await second.accept()
                assert tls_contexts() == 2
                await link.aclose()
                await accepted.wait_closed()
                await trio.sleep(60)  # QUIC answers late packets for a moment
                assert tls_contexts() == 0
                assert accepted.remote_address == first.address
        finally:
            gc.enable()


async def test_a_link_may_be_closed_when_its_time_was_over_before_anybody_looked(autojump_clock: MockClock) -> None:
    async with open_world(MemoryNetwork(31)) as world:
        link, _ = await world.pair()
        autojump_clock.jump(3600)  # the machine was asleep
        link.close_now()
        assert link.is_closed
        await trio.sleep(60)


def tls_contexts() -> int:
    """How many TLS states are in memory."""
    return sum(type(each) is TlsContext for each in gc.get_objects())


async def test_a_cancelled_endpoint_says_goodbye_too(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(17)) as world:
        first = await world.open(1)
        link = None
        with trio.CancelScope() as scope:
            async with open_endpoint(
                key=device(2),
                listen=("10.0.0.2", 2),
                authorise=admit_all,
                rng=random.Random(2),
                open_socket=world.network.open_socket,
            ) as second:
                link = await world.dial(first, second, key=2)
                scope.cancel()
        assert link is not None
        assert link.close_reason == "done"


async def test_a_port_in_use_is_told_before_anything_runs(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(18)) as world:
        await world.open(1)
        with pytest.raises(AddressInUse):
            async with open_endpoint(
                key=device(2),
                listen=("10.0.0.1", 1000),
                authorise=admit_all,
                rng=random.Random(2),
                open_socket=world.network.open_socket,
            ):
                pass


async def test_many_links_of_one_endpoint_keep_apart(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(19, loss=0.02)) as world:
        hub = await world.open(1)
        others = [await world.open(number) for number in range(2, 8)]
        dialled = [await world.dial(other, hub, key=1) for other in others]
        accepted = {(link := await hub.accept()).peer: link for _ in others}
        for number, link in enumerate(dialled, start=2):
            link.post_frame(Attach(last_epoch=number) if link.purpose is Purpose.SYNC else Prune())
            assert await accepted[device(number).device_id].receive_frame() == Prune()


async def test_real_sockets_carry_a_link() -> None:
    """The same over the kernel's loopback."""
    async with (
        open_endpoint(key=device(1), listen=("127.0.0.1", 0), authorise=admit_all, rng=random.Random(1)) as first,
        open_endpoint(key=device(2), authorise=admit_all, rng=random.Random(2)) as second,
        trio.open_nursery() as nursery,
    ):
        with trio.fail_after(30):
            link = await first.dial(
                ("127.0.0.1", second.address[1]),
                peer_key=device(2).public_key,
                hello_purpose=Purpose.POOL,
                pool_id=POOL,
                credentials=(),
                datagram_size=16370,
            )
            accepted = await second.accept()
            assert accepted.remote_address == first.address
            accepted.set_chunk_filter(lambda _file_id, _piece: True)
            nursery.start_soon(send_chunks, link, range(40))
            assert set(await collect_chunks(accepted, 40)) == set(range(40))
            assert accepted.statistics().chunk_bytes_in == 40 * 262_144
            assert second.candidates()
