"""Links: frames with credit, chunks, goodbyes, violations. Real QUIC over a network in memory, in jumping time."""

import logging

import pytest
import trio
from link_world import FILE, POOL, LinkWorld, chunk, collect_chunks, device, filler, open_world, send_chunks, wait_until

from poolnet.errors import LinkClosed, ProtocolError
from poolnet.limits import (
    IDLE_TIMEOUT_S,
    MAX_CHUNKS_IN_TRANSIT,
    MAX_UNACKNOWLEDGED_CONTROL,
    MAX_UNANSWERED_PINGS,
    PING_INTERVAL_S,
)
from poolnet.net.connection import Connection
from poolnet.net.link import Link
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.framing import encode_frame
from poolnet.wire.link_frames import INCARNATION_SIZE, Credit, Purpose
from poolnet.wire.pool_frames import GossipHave, Prune
from poolnet.wire.swarm_frames import ChunkHeader, Have, Promise
from poolnet.wire.sync_frames import Attach


async def test_both_ends_know_each_other(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(1)) as world:
        dialled, accepted = await world.pair()
        assert (dialled.peer, accepted.peer) == (device(2).device_id, device(1).device_id)
        assert (dialled.peer_key, accepted.peer_key) == (device(2).public_key, device(1).public_key)
        assert (dialled.pool_id, accepted.pool_id, accepted.purpose) == (POOL, POOL, Purpose.POOL)
        assert (dialled.is_dialler, accepted.is_dialler) == (True, False)
        assert (dialled.peer_credentials, accepted.peer_credentials) == ((b"our credentials",), (b"my credentials",))
        assert dialled.remote_address == ("10.0.0.2", 1000)
        assert accepted.remote_address == ("10.0.0.1", 1000)


async def test_a_device_is_known_as_the_same_on_all_links_until_it_is_opened_again(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with open_world(MemoryNetwork(1)) as world:
        here, there = await world.open(1), await world.open(2)
        dialled = [await world.dial(here, there, key=2) for _ in range(2)]
        await world.dial(there, here, key=1)
        shown = {link.peer_incarnation for link in (*dialled, await here.accept())}
        again = await world.dial(here, await world.open(2, port=1001), key=2)
        assert len(shown) == 1
        assert len(again.peer_incarnation) == INCARNATION_SIZE
        assert again.peer_incarnation not in shown


async def test_frames_arrive_in_order_both_ways(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(2, loss=0.05, jitter_s=0.02)) as world:
        dialled, accepted = await world.pair()
        for sender, receiver in ((dialled, accepted), (accepted, dialled)):
            for number in range(200):
                sender.post_frame(filler(100, number))
            got = [await receiver.receive_frame() for _ in range(200)]
            assert got == [filler(100, number) for number in range(200)]


async def test_flushed_returns_only_when_the_other_application_has_consumed(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(3)) as world, trio.open_nursery() as nursery:
        dialled, accepted = await world.pair()
        dialled.post_frame(Prune())
        done = trio.Event()

        async def flush() -> None:
            await dialled.flushed()
            done.set()

        nursery.start_soon(flush)
        await accepted.receive_frame()
        await trio.sleep(1)
        assert not done.is_set()  # taken, but perhaps still being worked on
        nursery.start_soon(accepted.receive_frame)
        with trio.fail_after(1):
            await done.wait()
        nursery.cancel_scope.cancel()


async def test_one_report_of_consumption_covers_the_frames_of_a_moment(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(1)) as world:
        dialled, accepted = await world.pair()
        await trio.sleep(0.5)
        before = dialled.statistics().frames_in
        for number in range(5):
            dialled.post_frame(filler(100, number))
            await accepted.receive_frame()
        with trio.move_on_after(1):
            await accepted.receive_frame()  # the last one counts as consumed, too
        assert dialled.statistics().unacknowledged_control == 0
        assert dialled.statistics().frames_in == before + 1


async def test_gossip_leaves_at_once_and_what_follows_it_closely_leaves_together(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with open_world(MemoryNetwork(1, latency_s=0.01)) as world:
        dialled, accepted = await world.pair()
        await trio.sleep(0.5)
        start, arrivals = trio.current_time(), []
        for number in range(6):
            dialled.post_frame(filler(100, number))
        for number in range(6):
            assert await accepted.receive_frame() == filler(100, number)
            arrivals.append(trio.current_time() - start)
        alone, *together = arrivals
        assert alone < 0.012
        assert len(set(together)) == 1
        assert 0.02 <= together[0] < 0.025


async def test_an_announcement_of_scattered_pieces_goes_with_what_follows_and_waits_only_a_moment_for_it(
    autojump_clock: trio.abc.Clock,
) -> None:
    scattered = Have(file_id=FILE, pieces=((0, 1), (3, 4), (8, 9)))
    promise = Promise(file_id=FILE, pieces=((2, 3),))
    async with open_world(MemoryNetwork(1, latency_s=0.01)) as world:
        dialled, accepted = await world.pair()
        await trio.sleep(0.5)
        before, start = accepted.statistics().frames_in, trio.current_time()
        dialled.post_frame(scattered)
        await trio.sleep(0.02)
        assert accepted.statistics().frames_in == before
        dialled.post_frame(promise)
        assert [await accepted.receive_frame(), await accepted.receive_frame()] == [scattered, promise]
        assert trio.current_time() - start < 0.035
        await trio.sleep(0.5)
        start = trio.current_time()
        dialled.post_frame(scattered)
        assert await accepted.receive_frame() == scattered
        assert 0.05 <= trio.current_time() - start < 0.055


async def test_other_frames_and_goodbye_do_not_overtake_gathered_gossip(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(1)) as world:
        dialled, accepted = await world.pair()
        sent = [filler(100, 0), filler(100, 1), Prune(), filler(100, 2)]
        for frame in sent:
            dialled.post_frame(frame)
        dialled.close_now()
        assert [await accepted.receive_frame() for _ in sent] == sent
        with pytest.raises(LinkClosed):
            await accepted.receive_frame()


async def test_posting_to_a_peer_that_never_reads_closes_the_link(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(4)) as world:
        dialled, accepted = await world.pair()
        frame = filler(30_000)
        while dialled.statistics().unacknowledged_control + 31_000 < MAX_UNACKNOWLEDGED_CONTROL:
            dialled.post_frame(frame)
        with pytest.raises(LinkClosed, match="too_slow"):
            dialled.post_frame(filler(40_000))
        assert dialled.close_reason is not None
        assert dialled.close_reason.startswith("too_slow")
        with trio.fail_after(5):
            await accepted.wait_closed()
        assert accepted.close_reason is not None
        assert accepted.close_reason.startswith("too_slow")


async def test_sending_waits_for_a_slow_reader_and_goes_on(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(5)) as world, trio.open_nursery() as nursery:
        dialled, accepted = await world.pair()
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(100):
                await dialled.send_frame(filler(30_000, number))
                sent += 1

        nursery.start_soon(send)
        await trio.sleep(10)
        assert sent * 30_000 <= MAX_UNACKNOWLEDGED_CONTROL
        for number in range(100):
            assert await accepted.receive_frame() == filler(30_000, number)
        assert sent == 100
        assert dialled.statistics().unacknowledged_control <= MAX_UNACKNOWLEDGED_CONTROL


async def test_chunks_arrive_whole_through_ten_percent_loss(autojump_clock: trio.abc.Clock) -> None:
    network = MemoryNetwork(6, latency_s=0.005, jitter_s=0.002, duplicate=0.02)
    async with open_world(network) as world, trio.open_nursery() as nursery:
        dialled, accepted = await world.pair(datagram_size=8952)
        network.loss = 0.1
        accepted.set_chunk_filter(lambda file_id, piece: file_id == FILE and piece < 24)
        nursery.start_soon(send_chunks, dialled, range(24))
        received = await collect_chunks(accepted, 24)
        assert received == {piece: chunk(piece)[1] for piece in range(24)}
        assert accepted.statistics().chunks_dropped == 0


async def test_a_chunk_nobody_asked_for_is_dropped_and_the_next_ones_arrive(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(7, loss=0.02)) as world, trio.open_nursery() as nursery:
        dialled, accepted = await world.pair()
        accepted.set_chunk_filter(lambda _file_id, piece: piece % 2 == 1)
        nursery.start_soon(send_chunks, dialled, range(6 * MAX_CHUNKS_IN_TRANSIT))
        received = await collect_chunks(accepted, 3 * MAX_CHUNKS_IN_TRANSIT)
        assert set(received) == set(range(1, 6 * MAX_CHUNKS_IN_TRANSIT, 2))
        await wait_until(lambda: accepted.statistics().chunks_dropped == 3 * MAX_CHUNKS_IN_TRANSIT)
        unwanted = 3 * MAX_CHUNKS_IN_TRANSIT * 262_144
        assert accepted.statistics().bytes_in < dialled.statistics().chunk_bytes_out - unwanted // 4  # most was stopped


async def test_nothing_is_expected_before_a_filter_is_set(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(8)) as world:
        dialled, accepted = await world.pair()
        await dialled.send_chunk(*chunk(0, 100))
        await wait_until(lambda: accepted.statistics().chunks_dropped == 1)
        assert not accepted.is_closed


async def test_the_credit_bounds_chunks_that_nobody_takes(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(9)) as world, trio.open_nursery() as nursery:
        dialled, accepted = await world.pair(datagram_size=8952)
        accepted.set_chunk_filter(lambda _file_id, _piece: True)
        nursery.start_soon(send_chunks, dialled, range(3 * MAX_CHUNKS_IN_TRANSIT))
        await trio.sleep(10)
        assert dialled.statistics().chunks_out == MAX_CHUNKS_IN_TRANSIT
        assert accepted.statistics().peak_queued_chunks == MAX_CHUNKS_IN_TRANSIT
        assert len(await collect_chunks(accepted, 3 * MAX_CHUNKS_IN_TRANSIT)) == 3 * MAX_CHUNKS_IN_TRANSIT


async def test_frames_overtake_chunks(autojump_clock: trio.abc.Clock) -> None:
    network = MemoryNetwork(10, latency_s=0.02)
    async with open_world(network) as world, trio.open_nursery() as nursery:
        dialled, accepted = await world.pair()
        accepted.set_chunk_filter(lambda _file_id, _piece: True)
        nursery.start_soon(send_chunks, dialled, range(MAX_CHUNKS_IN_TRANSIT))
        await trio.sleep(0.1)
        posted_at = trio.current_time()
        dialled.post_frame(Prune())
        await accepted.receive_frame()
        assert trio.current_time() - posted_at < 0.1
        assert accepted.statistics().chunks_in < MAX_CHUNKS_IN_TRANSIT or not accepted.is_closed
        await collect_chunks(accepted, MAX_CHUNKS_IN_TRANSIT)


async def test_a_chunk_header_that_lies_about_the_size_is_a_local_error(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(11)) as world:
        dialled, _ = await world.pair()
        with pytest.raises(ValueError, match="another size"):
            await dialled.send_chunk(ChunkHeader(file_id=FILE, piece=0, size=10), b"short")


async def test_goodbye_delivers_what_was_sent_before(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(12)) as world:
        dialled, accepted = await world.pair()
        for number in range(20):
            dialled.post_frame(filler(5000, number))
        started = trio.current_time()
        await dialled.aclose(code="leaving", reason="see you")
        assert trio.current_time() - started < 0.5
        assert accepted.close_reason == "leaving: see you"
        for number in range(20):
            assert await accepted.receive_frame() == filler(5000, number)
        with pytest.raises(LinkClosed):
            await accepted.receive_frame()
        with pytest.raises(LinkClosed):
            await accepted.receive_chunks()
        for closed in (dialled, accepted):
            with pytest.raises(LinkClosed):
                closed.post_frame(Prune())
            with pytest.raises(LinkClosed):
                await closed.send_chunk(*chunk(0, 10))
        await dialled.aclose()  # again: nothing happens
        dialled.close_now()


async def test_closing_towards_a_dead_peer_does_not_hang(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(13)) as world:
        dialled, accepted = await world.pair()
        world.network.silence(accepted.remote_address)
        started = trio.current_time()
        await dialled.aclose()
        assert trio.current_time() - started < 2
        assert dialled.is_closed


async def test_a_killed_peer_is_noticed(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(14)) as world:
        dialled, accepted = await world.pair()
        await trio.sleep(2)
        world.network.silence(dialled.remote_address)
        started = trio.current_time()
        with pytest.raises(LinkClosed):
            await dialled.receive_frame()
        assert trio.current_time() - started < IDLE_TIMEOUT_S + PING_INTERVAL_S + 1
        assert dialled.close_reason is not None
        assert dialled.close_reason.startswith("silent")
        await accepted.wait_closed()


async def test_an_idle_link_stays_up_and_knows_round_trip_and_clock(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(15, latency_s=0.025)) as world:
        dialled, accepted = await world.pair()
        await trio.sleep(20 * IDLE_TIMEOUT_S)
        for link in (dialled, accepted):
            assert not link.is_closed
            assert link.rtt_s == pytest.approx(0.05, abs=0.01)
            assert link.clock_offset_ms is not None
            assert abs(link.clock_offset_ms) < 1000


async def violated(world: LinkWorld, frame: object, *, raw: bool = False) -> tuple[Link, Link]:
    """Have the dialler say something that it must not say."""
    dialled, accepted = await world.pair()
    if raw:
        dialled._transport.write_control(frame)  # type: ignore[arg-type]
    else:
        dialled.post_frame(frame)  # type: ignore[arg-type]
    with trio.move_on_after(2), pytest.raises(LinkClosed):
        await accepted.receive_frame()
    return dialled, accepted


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02\x81\x61", b"\x00\x00\x00\x02\x81\x15", b"\x00\x00\x00\x01\x00"],
    ids=["a length of 4 GiB", "a cut-off item", "fields missing", "not an array"],
)
async def test_garbage_on_the_control_stream_closes_the_link(
    autojump_clock: trio.abc.Clock, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="poolnet"):
        async with open_world(MemoryNetwork(16)) as world:
            dialled, accepted = await violated(world, garbage, raw=True)
            assert accepted.close_reason is not None
            assert accepted.close_reason.startswith("protocol")
            with trio.fail_after(5):
                await dialled.wait_closed()
    assert "protocol violation" in caplog.text


async def test_credit_for_nothing_closes_the_link(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(17)) as world:
        _, accepted = await violated(world, Credit(control_bytes=1, chunks=0))
        assert accepted.close_reason is not None
        assert accepted.close_reason.startswith("protocol")


@pytest.mark.parametrize("how", ["stopped", "reset", "ended"])
async def test_a_control_stream_that_is_given_up_closes_the_link_and_nothing_else(
    autojump_clock: trio.abc.Clock, how: str
) -> None:
    async with open_world(MemoryNetwork(21)) as world:
        first, second = await world.open(1), await world.open(2)
        bad, good = [await world.dial(first, second, key=2) for _ in range(2)]
        accepted, other = await second.accept(), await second.accept()
        connection = bad._transport
        assert isinstance(connection, Connection)
        match how:
            case "stopped":
                connection._quic.stop_stream(0, 7)
            case "reset":
                connection._quic.reset_stream(0, 7)
            case _:
                connection._quic.send_stream_data(0, b"", end_stream=True)
        first.touch(connection)
        for number in range(50):  # what we write meanwhile does no harm
            if not accepted.is_closed:
                accepted.post_frame(filler(1000, number))
            await trio.sleep(0.001)
        with trio.fail_after(5):
            await accepted.wait_closed()
        assert accepted.close_reason is not None
        assert accepted.close_reason.startswith("protocol")
        good.post_frame(Prune())
        assert await other.receive_frame() == Prune()


async def test_a_frame_of_a_newer_version_is_skipped(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(18)) as world:
        dialled, accepted = await world.pair()
        dialled.post_frame(Attach(last_epoch=1))  # a frame of sync links, unknown here
        dialled.post_frame(Prune())
        assert await accepted.receive_frame() == Prune()
        assert accepted.statistics().unknown_frames == 1


async def test_a_cancelled_send_sends_nothing(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(19)) as world:
        dialled, accepted = await world.pair()
        while dialled.statistics().unacknowledged_control + 30_000 < MAX_UNACKNOWLEDGED_CONTROL:
            dialled.post_frame(filler(29_000, 1))
        before = dialled.statistics().frames_out
        with trio.move_on_after(1):
            await dialled.send_frame(filler(40_000, 2))
        assert dialled.statistics().frames_out <= before + 1  # a ping may have gone out
        with trio.move_on_after(5):
            while True:
                assert await accepted.receive_frame() == filler(29_000, 1)


async def test_an_empty_chunk_and_the_largest_list_of_ids_fit(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(20)) as world:
        dialled, accepted = await world.pair()
        accepted.set_chunk_filter(lambda _file_id, _piece: True)
        await dialled.send_chunk(*chunk(5, 0))
        assert await collect_chunks(accepted, 1) == {5: b""}
        frame = GossipHave(ids=tuple(number.to_bytes(32, "big") for number in range(1000)))  # type: ignore[misc]
        dialled.post_frame(frame)
        assert await accepted.receive_frame() == frame


async def test_a_link_ends_when_the_other_program_answers_no_more_although_its_quic_does(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(MemoryNetwork(1)) as world:
        dialled, accepted = await world.pair()
        monkeypatch.setattr(accepted._pings, "answer", lambda _ping, _now: None)
        started = trio.current_time()
        await dialled.wait_closed()
        assert (dialled.close_reason or "").startswith("timeout")
        assert dialled.violation is None, "it may just be slow"
        assert trio.current_time() - started == pytest.approx(MAX_UNANSWERED_PINGS * PING_INTERVAL_S, abs=1)


async def test_who_begins_a_frame_and_never_ends_it_loses_the_link(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(1)) as world:
        dialled, accepted = await world.pair()
        dialled._transport.write_control((1000).to_bytes(4, "big") + b"x")  # its pongs follow: they are in the frame
        await accepted.wait_closed()
        assert accepted.is_closed


async def test_what_a_link_found_against_the_protocol_is_told(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(1)) as world:
        dialled, accepted = await world.pair()
        dialled._transport.write_control(encode_frame(Credit(control_bytes=10**9, chunks=0)))
        await accepted.wait_closed()
        assert isinstance(accepted.violation, ProtocolError)
        assert dialled.violation is None
