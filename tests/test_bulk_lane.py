"""Lanes: the chunks of a link over TLS on TCP. Real sockets on loopback, real time, and no waiting for its own sake."""

import errno
import random
import socket
import ssl
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from lane_world import LanePair, cut, lane_of, open_lanes, soon
from link_world import FILE, chunk, collect_chunks, device, filler, send_chunks

from poolnet.errors import LinkClosed, ProtocolError, Unreachable, WireError
from poolnet.ids import PublicKey
from poolnet.limits import CHUNK_SIZE, MAX_CHUNKS_IN_TRANSIT, MAX_HALF_OPEN_LANES_PER_ADDRESS
from poolnet.net import bulk_lane, tls_socket
from poolnet.net.bulk_lane import BulkLane
from poolnet.net.chunk_inbox import ChunkInbox
from poolnet.net.lane_dialler import dial_lane
from poolnet.net.lane_keeper import LaneKeeper
from poolnet.net.lane_ledger import LaneLedger
from poolnet.net.lane_listener import LaneListener, listening_socket
from poolnet.net.link import Link
from poolnet.net.tls_socket import TlsSocket, dialling_context, listening_context
from poolnet.wire.framing import encode_frame
from poolnet.wire.link_frames import LaneEnded, LaneHello, LaneOffer, LanePass, LaneReport, Purpose
from poolnet.wire.pool_frames import Prune
from poolnet.wire.swarm_frames import ChunkHeader

LOCAL = ("127.0.0.1", 0)


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes tenths."""
    monkeypatch.setattr("poolnet.net.bulk_lane.LANE_STALL_S", 0.3)
    monkeypatch.setattr("poolnet.net.bulk_lane.LANE_REPORT_S", 0.02)
    monkeypatch.setattr("poolnet.net.lane_dialler.LANE_DIAL_TIMEOUT_S", 0.3)
    monkeypatch.setattr("poolnet.net.lane_listener.PRE_AUTH_TIMEOUT_S", 0.3)


async def exchange(pair: LanePair, count: int) -> list[dict[int, bytes]]:
    """Send `count` chunks each way at once; return what each side got, failing when something comes twice."""
    got: list[dict[int, bytes]] = [{}, {}]

    async def collect(link: Link, into: dict[int, bytes]) -> None:
        while len(into) < count:
            for item in await link.receive_chunks():
                assert item.header.piece not in into
                into[item.header.piece] = item.payload

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_chunks, pair.dialled, range(count))
            nursery.start_soon(send_chunks, pair.accepted, range(count))
            nursery.start_soon(collect, pair.dialled, got[0])
            nursery.start_soon(collect, pair.accepted, got[1])
    return got


def chunks_of(count: int) -> dict[int, bytes]:
    return {piece: chunk(piece)[1] for piece in range(count)}


async def test_chunks_go_over_tcp_both_ways_and_are_counted() -> None:
    async with open_lanes() as pair:
        await pair.up()
        udp_before = pair.first.statistics().udp.bytes_out
        assert await exchange(pair, 40) == [chunks_of(40)] * 2
        for link in (pair.dialled, pair.accepted):
            counts = link.statistics()
            assert counts.carrier == "tcp"
            assert (counts.chunks_in, counts.chunks_out) == (40, 40)
            assert counts.chunk_bytes_in == counts.chunk_bytes_out == 40 * CHUNK_SIZE
            assert min(counts.bytes_in, counts.bytes_out) > 40 * CHUNK_SIZE
            await soon(lambda link=link: min(link.statistics().rate_in, link.statistics().rate_out) > 0)  # type: ignore[misc]
        assert pair.first.statistics().udp.bytes_out - udp_before < CHUNK_SIZE
        assert pair.second.statistics().tcp.welcomed == 1


async def test_the_tcp_port_has_the_number_of_the_udp_port_unless_that_is_taken() -> None:
    with socket.create_server(LOCAL) as taken, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(LOCAL)
        beside = listening_socket(udp.getsockname())
        elsewhere = listening_socket(taken.getsockname())
        assert beside is not None
        assert elsewhere is not None
        with beside, elsewhere:
            assert beside.getsockname() == udp.getsockname()
            assert elsewhere.getsockname()[1] != taken.getsockname()[1]


@pytest.mark.parametrize("tcp", [(False, True), (True, False), (False, False)])
async def test_with_tcp_turned_off_on_either_side_chunks_go_over_quic(tcp: tuple[bool, bool]) -> None:
    async with open_lanes(first_tcp=tcp[0], second_tcp=tcp[1]) as pair:
        assert await exchange(pair, 4) == [chunks_of(4)] * 2
        assert pair.dialled.carrier == pair.accepted.carrier == "quic"
        assert [end.statistics().tcp.welcomed for end in (pair.first, pair.second)] == [0, 0]


async def test_links_to_a_sync_server_have_no_lane() -> None:
    async with open_lanes(purpose=Purpose.SYNC) as pair:
        pair.dialled.close_now()
        await pair.accepted.wait_closed()
        assert pair.second.statistics().tcp.accepted == 0


@pytest.mark.parametrize("listens", [(True, False), (False, False)], ids=["one side can be dialled", "neither"])
async def test_who_cannot_be_dialled_dials(monkeypatch: pytest.MonkeyPatch, listens: tuple[bool, bool]) -> None:
    answers = iter(listens)
    monkeypatch.setattr(
        "poolnet.net.lane_keeper.listening_socket", lambda udp: listening_socket(udp) if next(answers) else None
    )
    async with open_lanes() as pair:
        if any(listens):
            await pair.up()
            assert pair.first.statistics().tcp.welcomed == 1
        assert await exchange(pair, 4) == [chunks_of(4)] * 2
        assert pair.dialled.carrier == ("tcp" if any(listens) else "quic")


async def test_when_nothing_answers_at_the_port_the_other_direction_is_tried(
    monkeypatch: pytest.MonkeyPatch, short_times: None
) -> None:
    make_offer = LaneKeeper._make_offer

    def misdirect(keeper: LaneKeeper) -> None:
        if keeper._listener is not None and not keeper._link.is_dialler:
            with socket.create_server(LOCAL) as closed:
                monkeypatch.setattr(keeper._listener, "port", closed.getsockname()[1])
        make_offer(keeper)

    monkeypatch.setattr(LaneKeeper, "_make_offer", misdirect)
    async with open_lanes() as pair:
        await pair.up()
        assert [end.statistics().tcp.welcomed for end in (pair.first, pair.second)] == [1, 0]


async def test_when_no_direction_works_chunks_go_over_quic_and_it_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("poolnet.net.lane_keeper.LANE_RETRY_S", 0.2)
    monkeypatch.setattr("poolnet.net.lane_keeper._MIN_DIAL_INTERVAL_S", 0.05)
    dials = []

    async def fail(offer: LaneOffer, link_host: str, peer_key: PublicKey) -> TlsSocket:
        await trio.lowlevel.checkpoint()
        dials.append(link_host)
        if len(dials) > 4:
            return await dial_lane(offer, link_host, peer_key)
        raise Unreachable("a firewall")

    monkeypatch.setattr("poolnet.net.lane_keeper.dial_lane", fail)
    async with open_lanes() as pair:
        assert await exchange(pair, 4) == [chunks_of(4)] * 2
        await pair.up()
        assert len(dials) == 5


# --- lanes that end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_by_dialler", [True, False])
async def test_a_lane_that_breaks_in_the_middle_loses_nothing_and_repeats_nothing(cut_by_dialler: bool) -> None:
    async with open_lanes() as pair, trio.open_nursery() as nursery:
        await pair.up()

        async def cut_in_the_middle() -> None:
            await soon(lambda: pair.dialled.statistics().chunks_in > 25 and pair.accepted.statistics().chunks_in > 25)
            cut(pair.dialled if cut_by_dialler else pair.accepted)

        nursery.start_soon(cut_in_the_middle)
        assert await exchange(pair, 80) == [chunks_of(80)] * 2
        assert pair.dialled.carrier == pair.accepted.carrier == "quic"
        for link in (pair.dialled, pair.accepted):
            counts = link.statistics()
            assert (counts.chunks_in, counts.chunks_out, counts.chunks_dropped) == (80, 80, 0)
            assert counts.chunk_bytes_out == 80 * CHUNK_SIZE


async def test_lanes_that_break_again_and_again_come_back_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolnet.net.lane_keeper.LANE_RETRY_S", 0.01)
    monkeypatch.setattr("poolnet.net.lane_keeper._MIN_DIAL_INTERVAL_S", 0.0)
    rng = random.Random(1)
    async with open_lanes() as pair:
        cuts = 0

        async def cut_often() -> None:
            nonlocal cuts
            while True:
                await pair.up()
                await trio.sleep(rng.random() * 0.01)
                if pair.dialled.carrier == pair.accepted.carrier == "tcp":
                    cut(rng.choice((pair.dialled, pair.accepted)))
                    cuts += 1
                await pair.down()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_often)
            assert await exchange(pair, 150) == [chunks_of(150)] * 2
            nursery.cancel_scope.cancel()
        assert cuts > 2
        assert not pair.dialled.is_closed


async def test_a_lane_that_goes_silent_is_given_up_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, short_times: None
) -> None:
    async with open_lanes() as pair, trio.open_nursery() as nursery:
        await pair.up()
        monkeypatch.setattr(lane_of(pair.accepted)._tls, "read_into", lambda room: None)  # bytes go in and never out
        nursery.start_soon(send_chunks, pair.dialled, range(30))
        assert await collect_chunks(pair.accepted, 30) == chunks_of(30)
        assert pair.dialled.carrier == pair.accepted.carrier == "quic"


async def test_a_slow_application_ends_no_lane_and_holds_few_chunks(short_times: None) -> None:
    async with open_lanes() as pair, trio.open_nursery() as nursery:
        await pair.up()
        nursery.start_soon(send_chunks, pair.dialled, range(3 * MAX_CHUNKS_IN_TRANSIT))
        await soon(lambda: pair.accepted.statistics().peak_queued_chunks == MAX_CHUNKS_IN_TRANSIT)
        await trio.sleep(0.5)  # longer than a lane may be silent here
        assert pair.dialled.statistics().chunks_out == MAX_CHUNKS_IN_TRANSIT
        assert len(await collect_chunks(pair.accepted, 3 * MAX_CHUNKS_IN_TRANSIT)) == 3 * MAX_CHUNKS_IN_TRANSIT
        assert pair.accepted.statistics().peak_queued_chunks <= MAX_CHUNKS_IN_TRANSIT
        assert pair.dialled.carrier == "tcp"


async def test_a_lane_whose_key_is_worn_out_is_followed_by_another_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolnet.net.bulk_lane.LANE_LIFETIME_SIZE", 30 * CHUNK_SIZE)
    monkeypatch.setattr("poolnet.net.lane_keeper._MIN_DIAL_INTERVAL_S", 0.0)
    async with open_lanes() as pair, trio.open_nursery() as nursery:
        await pair.up()
        nursery.start_soon(send_chunks, pair.dialled, range(40))
        assert await collect_chunks(pair.accepted, 40) == chunks_of(40)
        await pair.up()
        assert sum(end.statistics().tcp.welcomed for end in (pair.first, pair.second)) == 2


async def test_a_lane_that_its_dialler_gave_up_as_it_came_up_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolnet.net.lane_keeper.LANE_END_TIMEOUT_S", 0.5)
    given_up = []

    async def give_up(offer: LaneOffer, link_host: str, peer_key: PublicKey) -> TlsSocket:
        tls = await dial_lane(offer, link_host, peer_key)
        given_up.append(tls)
        tls.close()
        raise Unreachable("too late")

    monkeypatch.setattr("poolnet.net.lane_keeper.dial_lane", give_up)
    async with open_lanes() as pair:
        await soon(lambda: len(given_up) > 0)
        assert await exchange(pair, 20) == [chunks_of(20)] * 2
        await trio.sleep(0.6)  # longer than the end of a lane may stay unanswered here
        assert not pair.dialled.is_closed
        assert not pair.accepted.is_closed
        assert await exchange(pair, 20) == [chunks_of(20)] * 2


async def test_a_lane_dies_with_its_link() -> None:
    async with open_lanes() as pair:
        await pair.up()
        lanes = [lane_of(link) for link in (pair.dialled, pair.accepted)]
        await pair.dialled.aclose()
        for lane in lanes:
            await soon(lambda lane=lane: lane._tls._socket.fileno() < 0)  # type: ignore[misc]
        for link in (pair.dialled, pair.accepted):
            with pytest.raises(LinkClosed):
                await link.send_chunk(*chunk(1))
            with pytest.raises(LinkClosed):
                await link.receive_chunks()


async def test_a_lane_that_has_ended_keeps_no_memory_for_chunks() -> None:
    tracemalloc.start()
    try:
        async with open_lanes() as pair:
            await pair.up()
            await exchange(pair, 2)
            lanes = [lane_of(pair.dialled), lane_of(pair.accepted)]
            assert held_by_lanes() > 2 * CHUNK_SIZE
            await pair.dialled.aclose()
            await soon(lambda: held_by_lanes() < CHUNK_SIZE / 4)
            assert len(lanes) == 2  # whoever still knows them
    finally:
        tracemalloc.stop()


def held_by_lanes() -> int:
    """Return the bytes that were allocated by lanes and are not freed."""
    module = tracemalloc.Filter(True, bulk_lane.__file__)
    traces = tracemalloc.take_snapshot().filter_traces([module]).statistics("filename")
    return sum(statistic.size for statistic in traces)


async def test_an_application_that_holds_back_what_is_sent_again_costs_no_link_and_the_next_lane_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("poolnet.net.lane_keeper._MIN_DIAL_INTERVAL_S", 0.0)
    async with open_lanes() as pair:
        await pair.up()
        chunks, may_go_on, is_held = pair.dialled.chunks, trio.Event(), trio.Event()
        resume = chunks.resume

        async def wait_first(arrived: int) -> None:
            is_held.set()
            await may_go_on.wait()
            await resume(arrived)

        monkeypatch.setattr(chunks, "resume", wait_first)
        dialled = list[int]()

        async def note(offer: LaneOffer, link_host: str, peer_key: PublicKey) -> TlsSocket:
            dialled.append(offer.port)
            raise Unreachable("nobody there")

        monkeypatch.setattr("poolnet.net.lane_keeper.dial_lane", note)
        cut(pair.dialled)
        await is_held.wait()
        for port in range(1, 21):
            pair.accepted.tell_lane(LaneOffer(lane_id=bytes(16), token=bytes(32), port=port, hosts=()))
            pair.accepted.post_frame(Prune())
            await pair.dialled.receive_frame()
        assert dialled == []
        may_go_on.set()
        await soon(lambda: dialled[:1] == [20])
        assert not pair.dialled.is_closed
        assert await exchange(pair, 4) == [chunks_of(4)] * 2


# --- what travels on a lane ----------------------------------------------------------------------------------------


async def test_unwanted_chunks_are_skipped_and_the_others_arrive() -> None:
    async with open_lanes() as pair, trio.open_nursery() as nursery:
        await pair.up()
        pair.accepted.set_chunk_filter(lambda file_id, piece: file_id == FILE and piece % 3 == 0)
        nursery.start_soon(send_chunks, pair.dialled, range(60))
        assert set(await collect_chunks(pair.accepted, 20)) == set(range(0, 60, 3))
        await soon(lambda: pair.accepted.statistics().chunks_dropped == 40)
        assert pair.dialled.carrier == "tcp"


async def test_chunks_of_every_size_arrive() -> None:
    sizes = [0, 1, 16_330, 16_384, 16_400, 100_000, CHUNK_SIZE]
    async with open_lanes() as pair:
        await pair.up()
        for piece, size in enumerate(sizes):
            await pair.dialled.send_chunk(*chunk(piece, size))
        received = await collect_chunks(pair.accepted, len(sizes))
        assert received == {piece: chunk(piece, size)[1] for piece, size in enumerate(sizes)}


async def test_a_cancelled_chunk_is_not_sent_and_does_not_harm_the_lane() -> None:
    async with open_lanes() as pair:
        await pair.up()
        await send_chunks(pair.dialled, range(MAX_CHUNKS_IN_TRANSIT))
        with trio.move_on_after(0.05):
            await pair.dialled.send_chunk(*chunk(1000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_chunks, pair.dialled, range(MAX_CHUNKS_IN_TRANSIT, 30))
            assert await collect_chunks(pair.accepted, 30) == chunks_of(30)
        with pytest.raises(ValueError, match="another size"):
            await pair.dialled.send_chunk(chunk(1)[0], b"short")


async def test_frames_do_not_wait_behind_chunks() -> None:
    async with open_lanes() as pair, trio.open_nursery() as nursery:
        await pair.up()
        nursery.start_soon(send_chunks, pair.dialled, range(10**6))
        await collect_chunks(pair.accepted, 5)  # and no more: the lane is full now
        for number in range(20):
            pair.dialled.post_frame(filler(100, number))
            with trio.fail_after(1):
                assert await pair.accepted.receive_frame() == filler(100, number)
        nursery.cancel_scope.cancel()


async def test_connections_that_come_when_the_link_is_gone_are_closed() -> None:
    async with open_lanes() as pair:
        await pair.up()
        keeper = LaneKeeper(pair.dialled, None, LOCAL)
        late = []
        with socket.create_server(LOCAL) as server:
            for _ in range(2):
                connected = socket.create_connection(server.getsockname())
                late.append(TlsSocket(connected, dialling_context(device(2).public_key), server_side=False))
        keeper._arrived(b"i" * 16, late[0])
        pair.dialled.close_now()
        await keeper.run()
        keeper._arrived(b"i" * 16, late[1])
        keeper.handle(LanePass())
        assert [tls._socket.fileno() for tls in late] == [-1, -1]


@pytest.mark.parametrize(
    "said",
    [
        encode_frame(LaneReport(received=1, consumed=0)),
        encode_frame(LaneReport(received=0, consumed=1)),
        encode_frame(LaneReport(received=2**64 - 1, consumed=2**64 - 1)),
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\x00",
    ],
    ids=["received what was not sent", "consumed without receiving", "absurd", "a frame of 4 GiB", "no frame"],
)
async def test_nonsense_on_a_lane_closes_the_link(said: bytes) -> None:
    async with open_lanes() as pair:
        await pair.up()
        assert lane_of(pair.dialled)._tls.write(said)
        with trio.fail_after(5):
            await pair.accepted.wait_closed()
        assert (pair.accepted.close_reason or "").startswith("protocol")


async def test_more_chunks_than_allowed_on_a_lane_close_the_link() -> None:
    async with open_lanes() as pair:
        await pair.up()
        header, payload = chunk(1, 10)
        assert lane_of(pair.dialled)._tls.write((encode_frame(header) + payload) * (MAX_CHUNKS_IN_TRANSIT + 1))
        with trio.fail_after(5):
            await pair.accepted.wait_closed()
        assert (pair.accepted.close_reason or "").startswith("protocol: more was sent")


@pytest.mark.parametrize("chunks", [1, 2**63])
async def test_the_end_of_a_lane_with_a_wrong_count_closes_the_link(
    monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    tell_lane = Link.tell_lane

    def lie(link: Link, frame: object) -> None:
        if isinstance(frame, LaneEnded) and link.is_dialler:
            frame = LaneEnded(lane_id=frame.lane_id, chunks=chunks)
        tell_lane(link, frame)  # type: ignore[arg-type]

    monkeypatch.setattr(Link, "tell_lane", lie)
    async with open_lanes() as pair:
        await pair.up()
        cut(pair.dialled)
        with trio.fail_after(5):
            await pair.accepted.wait_closed()
        assert (pair.accepted.close_reason or "").startswith("protocol: a report of chunks")


async def test_who_does_not_say_what_arrived_loses_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolnet.net.lane_keeper.LANE_END_TIMEOUT_S", 0.2)
    tell_lane = Link.tell_lane
    monkeypatch.setattr(
        Link,
        "tell_lane",
        lambda link, frame: None if isinstance(frame, LaneEnded) and link.is_dialler else tell_lane(link, frame),
    )
    async with open_lanes() as pair:
        await pair.up()
        cut(pair.dialled)
        with trio.fail_after(5):
            await pair.accepted.wait_closed()
        assert (pair.accepted.close_reason or "").startswith("timeout: nobody said")
        assert pair.accepted.violation is None, "it may just have died"


async def test_offers_out_of_turn_are_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    dials = []

    async def count(offer: LaneOffer, link_host: str, peer_key: PublicKey) -> TlsSocket:
        await trio.lowlevel.checkpoint()
        dials.append(offer.port)
        raise Unreachable("nobody there")

    monkeypatch.setattr("poolnet.net.lane_keeper.dial_lane", count)
    async with open_lanes() as pair:
        await soon(lambda: len(dials) == 2)  # each way once
        for port in range(1, 20):
            pair.dialled.tell_lane(LaneOffer(lane_id=bytes(16), token=bytes(32), port=port, hosts=()))
            pair.dialled.post_frame(Prune())
            await pair.accepted.receive_frame()
        await trio.sleep(0.05)
        assert len(dials) == 2


async def test_a_flood_of_lane_frames_closes_the_link() -> None:
    async with open_lanes() as pair:
        await pair.up()
        for _ in range(1000):
            pair.dialled.tell_lane(LanePass())
        with trio.fail_after(5):
            await pair.accepted.wait_closed()
        assert (pair.accepted.close_reason or "").startswith("protocol: too many")


# --- who may have a lane -------------------------------------------------------------------------------------------


def offer_for(listener: LaneListener, *, token: bytes = b"t" * 32) -> LaneOffer:
    return LaneOffer(lane_id=b"i" * 16, token=token, port=listener.port, hosts=())


def open_listener() -> LaneListener:
    listening = listening_socket(LOCAL)
    assert listening is not None
    return LaneListener(listening, listening_context(device(2)))


async def test_a_right_token_is_good_once(short_times: None) -> None:
    listener, arrived = open_listener(), list[TlsSocket]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        offer = offer_for(listener)
        listener.expect(offer, arrived.append)
        tls = await dial_lane(offer, "127.0.0.1", device(2).public_key)
        await soon(lambda: len(arrived) == 1)
        listener.expect(another(offer), arrived.append)  # or nobody would be heard
        with pytest.raises(Unreachable):
            await dial_lane(offer, "127.0.0.1", device(2).public_key)
        assert len(arrived) == 1
        for end in (tls, *arrived):
            end.close()
        nursery.cancel_scope.cancel()


def another(offer: LaneOffer) -> LaneOffer:
    return LaneOffer(lane_id=b"j" * 16, token=offer.token, port=offer.port, hosts=())


async def test_a_wrong_token_gets_nothing_and_the_right_one_still_works(short_times: None) -> None:
    listener, arrived = open_listener(), list[TlsSocket]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        listener.expect(offer_for(listener), arrived.append)
        with pytest.raises(Unreachable):
            await dial_lane(offer_for(listener, token=b"x" * 32), "127.0.0.1", device(2).public_key)
        assert listener.statistics.welcomed == 0
        tls = await dial_lane(offer_for(listener), "127.0.0.1", device(2).public_key)
        await soon(lambda: len(arrived) == 1)
        for end in (tls, *arrived):
            end.close()
        nursery.cancel_scope.cancel()


async def test_the_token_is_not_shown_to_another_key(short_times: None) -> None:
    listener, arrived = open_listener(), list[TlsSocket]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        listener.expect(offer_for(listener), arrived.append)
        with pytest.raises(Unreachable):
            await dial_lane(offer_for(listener), "127.0.0.1", device(3).public_key)
        assert arrived == []
        assert listener.statistics.welcomed == 0
        nursery.cancel_scope.cancel()


async def test_an_address_that_does_not_answer_delays_the_next_one_only_a_little(short_times: None) -> None:
    listener, arrived = open_listener(), list[TlsSocket]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        offer = LaneOffer(lane_id=b"i" * 16, token=b"t" * 32, port=listener.port, hosts=("127.0.0.1",))
        listener.expect(offer, arrived.append)
        tls = await dial_lane(offer, "127.9.9.9", device(2).public_key)  # nobody listens at that one
        await soon(lambda: len(arrived) == 1)
        for end in (tls, *arrived):
            end.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("hosts", [("127.0.0.1", "::1"), ("0.0.0.0", "::", "::ffff:127.0.0.1")])
async def test_nothing_on_this_machine_is_dialled_for_a_peer_elsewhere(
    short_times: None, hosts: tuple[str, ...]
) -> None:
    with socket.create_server(LOCAL) as victim:
        victim.setblocking(False)
        offer = LaneOffer(lane_id=b"i" * 16, token=b"t" * 32, port=victim.getsockname()[1], hosts=hosts)
        with pytest.raises(Unreachable):
            await dial_lane(offer, "192.0.2.1", device(2).public_key)
        with pytest.raises(BlockingIOError):
            victim.accept()


async def test_a_flood_of_silent_connections_is_bounded_and_passes(short_times: None) -> None:
    listener, arrived = open_listener(), list[TlsSocket]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        listener.expect(offer_for(listener), arrived.append)
        flood = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(50)]
        await soon(lambda: listener.statistics.accepted == 50)
        assert listener.statistics.turned_away == 50 - MAX_HALF_OPEN_LANES_PER_ADDRESS
        await soon(lambda: not listener._half_open)  # their time is over
        tls = await dial_lane(offer_for(listener), "127.0.0.1", device(2).public_key)
        await soon(lambda: len(arrived) == 1)
        for end in (*flood, tls, *arrived):
            end.close()
        nursery.cancel_scope.cancel()


async def test_a_system_without_descriptors_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("poolnet.net.lane_listener._EXHAUSTED_PAUSE_S", 0.01)
    listener, arrived = open_listener(), list[TlsSocket]()
    accept, failures = listener._accept, iter([errno.EMFILE, errno.ECONNABORTED])

    def fail_first(nursery: trio.Nursery) -> None:
        if (number := next(failures, None)) is not None:
            raise OSError(number, "as ordered")
        accept(nursery)

    monkeypatch.setattr(listener, "_accept", fail_first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        listener.expect(offer_for(listener), arrived.append)
        tls = await dial_lane(offer_for(listener), "127.0.0.1", device(2).public_key)
        await soon(lambda: len(arrived) == 1)
        for end in (tls, *arrived):
            end.close()
        nursery.cancel_scope.cancel()
    assert "cannot take TCP connections" in caplog.text


async def test_while_no_lane_is_expected_nobody_is_heard() -> None:
    listener = open_listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        with socket.create_connection(("127.0.0.1", listener.port)) as stranger:
            await trio.lowlevel.wait_readable(stranger)
            assert stranger.recv(1) == b""
        assert listener.statistics.turned_away == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        (5000).to_bytes(4, "big") + bytes(5000),
        encode_frame(Prune()),
        b"\x00\x00\x00\x01\xff",
    ],
)
async def test_who_speaks_of_something_else_is_closed(said: bytes, short_times: None) -> None:
    listener = open_listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        listener.expect(offer_for(listener), lambda tls: None)
        connected = socket.create_connection(("127.0.0.1", listener.port))
        tls = TlsSocket(connected, dialling_context(device(2).public_key), server_side=False)
        await tls.handshake()
        await tls.write_all(said)
        with pytest.raises(OSError), trio.fail_after(5):
            await tls.read_exactly(1)
        tls.close()
        assert listener.statistics.welcomed == 0
        nursery.cancel_scope.cancel()


async def test_a_client_of_another_protocol_gets_no_further_than_the_handshake(short_times: None) -> None:
    listener = open_listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        listener.expect(offer_for(listener), lambda tls: None)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connected = socket.create_connection(("127.0.0.1", listener.port))
        tls = TlsSocket(connected, context, server_side=False)
        with pytest.raises(OSError):
            await tls.handshake()
        tls.close()
        await soon(lambda: not listener._half_open)
        nursery.cancel_scope.cancel()


def test_the_key_of_the_listener_is_readable_by_nobody_else_and_left_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(tls_socket.os, "memfd_create")
    monkeypatch.setattr(tls_socket.tempfile, "tempdir", str(tmp_path))
    with tls_socket._as_file(b"secret") as name:
        assert Path(name).parent == tmp_path
        assert Path(name).stat().st_mode & 0o777 == 0o600
        assert Path(name).read_bytes() == b"secret"
    assert list(tmp_path.iterdir()) == []


def test_an_offer_does_not_show_its_token() -> None:
    assert "token" not in repr(LaneOffer(lane_id=b"i" * 16, token=b"secret!!" * 4, port=1, hosts=()))
    assert "token" not in repr(LaneHello(lane_id=b"i" * 16, token=b"secret!!" * 4))


# --- without a socket ----------------------------------------------------------------------------------------------


class ScriptedTls:
    """A connection from which given bytes are read, in given pieces; what is written is lost."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def read_into(self, room: memoryview) -> int | None:
        if not self.pieces:
            return None
        piece = self.pieces.pop(0)
        room[: len(piece)] = piece
        return len(piece)

    def write(self, _data: bytes) -> bool:
        return True


def read_all(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], int]:
    """Feed a lane; return the chunks it delivered and the number of those it dropped."""
    inbox = ChunkInbox()
    inbox.set_filter(lambda _file_id, piece: piece % 2 == 0)
    lane = BulkLane(
        ScriptedTls(pieces),  # type: ignore[arg-type]
        LaneLedger(),
        inbox,
        count_in=lambda size: None,
        count_out=lambda size: None,
    )
    lane._buffer = memoryview(bytearray(CHUNK_SIZE + 32_768))
    while lane._read_turn():
        pass
    return [(item.header.piece, item.payload) for item in inbox._queue], inbox.dropped


@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=MAX_CHUNKS_IN_TRANSIT),
    st.lists(st.integers(1, 16_384), min_size=1, max_size=20),
)
def test_chunks_are_the_same_whatever_pieces_they_arrive_in(sizes: list[int], cuts: list[int]) -> None:
    data, wanted = b"", []
    for piece, size in enumerate(sizes):
        header, payload = chunk(piece, size)
        data += encode_frame(LaneReport(received=0, consumed=0)) + encode_frame(header) + payload
        if piece % 2 == 0:
            wanted.append((piece, payload))
    pieces, index = [], 0
    while data:
        size = cuts[index % len(cuts)]
        pieces.append(data[:size])
        data, index = data[size:], index + 1

    async def main() -> None:
        assert read_all(pieces) == (wanted, len(sizes) - len(wanted))

    trio.run(main)


@given(st.integers(0, 3), st.binary(max_size=60), st.binary(max_size=60))
def test_garbage_on_a_lane_raises_nothing_but_what_it_should(honest: int, first: bytes, second: bytes) -> None:
    header, payload = chunk(2, 100)
    begin = (encode_frame(header) + payload) * honest

    async def main() -> None:
        with suppress(WireError, ProtocolError):
            read_all([piece for piece in (begin, first, len(second).to_bytes(4, "big") + second) if piece])

    trio.run(main)


@given(st.lists(st.tuples(st.sampled_from(["send", "receive", "consume", "report", "break"]), st.integers(1, 5))))
def test_ledgers_of_two_sides_agree_whatever_is_lost(steps: list[tuple[str, int]]) -> None:
    """A model of one direction: a list of chunks on the way, of which a break loses all."""
    sender, receiver = LaneLedger(), LaneLedger()
    on_the_way: list[int] = []
    arrived: list[int] = []
    resent: list[int] = []
    number = 0
    for what, count in steps:
        for _ in range(count):
            if what == "send" and sender.outgoing.has_room(1):
                sender.sent(ChunkHeader(file_id=FILE, piece=number, size=0), b"")
                on_the_way.append(number)
                number += 1
            elif what == "receive" and on_the_way:
                receiver.incoming.arrive(1)
                arrived.append(on_the_way.pop(0))
            elif what == "consume" and receiver.incoming.consumed < receiver.incoming.received:
                receiver.consumed(1)
        if what == "report":
            sender.reported(receiver.report())
        elif what == "break":
            resent += [header.piece for header, _ in sender.take_back(receiver.incoming.received)]
            on_the_way.clear()
    assert sender.outgoing.under_way <= MAX_CHUNKS_IN_TRANSIT
    assert sorted(arrived + resent + on_the_way) == list(range(number))
    assert sender.outgoing.sent == len(arrived) + len(on_the_way)
