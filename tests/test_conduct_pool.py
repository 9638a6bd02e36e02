"""Whole nodes and a real server: whoever breaks the rules loses its links, and its place, and nobody else does."""

import logging
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import attrs
import pytest
import trio
from test_pool import Member, World, enter
from trio.testing import MockClock
from wrong_clock import WrongClock

import poolnet
from poolnet.errors import LinkClosed
from poolnet.files.outgoing import Read
from poolnet.identity.authorship import sign_message
from poolnet.ids import DeviceId, FileId
from poolnet.limits import CONDUCT_CHECK_INTERVAL_S, FAULTS_PER_SHUNNING, MIB, MIN_SHUN_S, STRIKES_PER_REMOVAL
from poolnet.pool_net import MemberInfo
from poolnet.protocol.conduct import Kind
from poolnet.wire.bodies import TextBody
from poolnet.wire.framing import Frame, frame
from poolnet.wire.message import encode_message
from poolnet.wire.pool_frames import Gossip, GossipHave

pytestmark = pytest.mark.timeout(120)


@asynccontextmanager
async def served_pool(world: World, *names: str) -> AsyncIterator[tuple[poolnet.SyncServer, list[Member]]]:
    """A server, and members that are all linked with each other."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(world.server())
        members: list[Member] = []
        invite: poolnet.InviteLink | None = None
        for name in names:
            node = await stack.enter_async_context(world.node(name))
            invite = invite or await node.create_pool("garden", server=server.address)
            members.append(await stack.enter_async_context(enter(node, invite, name)))
        for member in members:
            await member.linked(len(names) - 1)
        yield server, members


def forged(author: Member, number: int) -> Frame:
    """A message that looks as if a member had written it, and that it did not sign."""
    hlc = author.pool._time.clock.tick(author.pool.unix_ms)
    body = TextBody(text=f"I leave everything to Eve ({number})")
    genuine = sign_message(author.node._own.key, pool_id=author.pool.pool_id, hlc=hlc, body=body)
    return Gossip(hops=1, message=encode_message(attrs.evolve(genuine, signature=bytes(64))))


@frame(GossipHave.FRAME_TYPE)
@attrs.frozen
class Unreadable(Frame):
    """A frame without the fields that it must have."""


async def spoil(liar: Member, make: Callable[[int], Frame], victims: Collection[Member] | None = None) -> None:
    """Say it again and again on every link that there is, until cancelled."""
    chosen = None if victims is None else {victim.node.device_id for victim in victims}
    for number in count():
        for peer, link in list(liar.pool._links.links.items()):
            if chosen is None or peer in chosen:
                with suppress(LinkClosed):
                    link.post_frame(make(number))
        await trio.sleep(0.2)


def seen_by(member: Member, other: Member) -> MemberInfo:
    return next(info for info in member.pool.members() if info.node == other.node.device_id)


async def knows(member: Member, file_id: FileId) -> None:
    """Wait until a member has heard of a file."""
    await until(lambda: any(offer.file_id == file_id for offer in member.pool.files.offers()))


async def until(condition: Callable[[], bool], *, within_s: float = 600) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - of things that tell nobody
            await trio.sleep(0.1)


async def test_a_member_that_forges_messages_is_shunned_for_a_while_that_grows_and_whom_it_named_is_not(
    tmp_path: Path, jumping_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "poolnet.pool.conduct_keeper")
    async with served_pool(World(tmp_path), "ada", "bob", "eve") as (_, (ada, bob, eve)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spoil, eve, lambda number: forged(bob, number), [ada])
            await until(lambda: seen_by(ada, eve).shunned_s is not None)
            nursery.cancel_scope.cancel()
        began_at = trio.current_time()
        seen = seen_by(ada, eve)
        assert seen.conduct == "bad_signature"
        assert seen.shunned_s is not None
        assert MIN_SHUN_S - 1 < seen.shunned_s <= MIN_SHUN_S
        statistics = ada.pool.statistics().conduct
        assert (statistics.peers, statistics.shunned) == (1, 1)
        assert statistics.noted == {"bad_signature": FAULTS_PER_SHUNNING}
        assert (seen_by(ada, bob).conduct, seen_by(bob, eve).conduct) == (None, None)
        assert seen_by(ada, bob).linked
        assert not ada.texts()
        await trio.sleep(MIN_SHUN_S / 2)
        assert not seen_by(ada, eve).linked
        assert "no link to" in caplog.text
        await eve.pool.send("sorry")  # what it says goes by others meanwhile
        await ada.hears("sorry")
        await until(lambda: seen_by(ada, eve).linked)
        assert trio.current_time() >= began_at + MIN_SHUN_S - 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spoil, eve, lambda number: forged(bob, number), [ada])
            await until(lambda: seen_by(ada, eve).shunned_s is not None)
            nursery.cancel_scope.cancel()
        assert (seen_by(ada, eve).shunned_s or 0) > MIN_SHUN_S
        assert ada.pool.statistics().conduct.noted == {"bad_signature": FAULTS_PER_SHUNNING + 1}


async def test_who_sends_what_is_no_frame_is_shunned_too(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with served_pool(World(tmp_path), "ada", "eve") as (_, (ada, eve)), trio.open_nursery() as nursery:
        nursery.start_soon(spoil, eve, lambda _number: Unreadable())
        await until(lambda: seen_by(ada, eve).shunned_s is not None)
        assert seen_by(ada, eve).conduct == "protocol"
        nursery.cancel_scope.cancel()


async def test_who_sends_wrong_pieces_is_shunned_and_the_file_comes_from_others(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_pool(World(tmp_path), "ada", "bob", "eve") as (_, (ada, bob, eve)):
        exchange = eve.pool.files._files.exchange
        for _, outgoing in exchange._links.values():
            monkeypatch.setattr(outgoing, "_read", wrongly(exchange._read))
        for number in range(10):
            content = random.Random(number).randbytes(8 * MIB)
            (tmp_path / f"source {number}").write_bytes(content)
            offer = await ada.pool.files.offer(tmp_path / f"source {number}")
            for member, name in ((eve, f"eve {number}"), (bob, f"bob {number}")):
                await knows(member, offer.file_id)
                await member.pool.files.download(offer.file_id, tmp_path / name)
            assert (tmp_path / f"bob {number}").read_bytes() == content
            if seen_by(bob, eve).shunned_s is not None:
                break
        seen = seen_by(bob, eve)
        assert (seen.conduct, seen.linked) == ("bad_chunk", False)
        assert bob.pool.statistics().conduct.noted == {"bad_chunk": FAULTS_PER_SHUNNING}
        assert bob.pool._conduct.credit_of(eve.node.device_id) < bob.pool._conduct.credit_of(ada.node.device_id)
        assert seen_by(bob, ada).conduct is None


def wrongly(read: Read) -> Read:
    """Read as before, but zeros instead of what is in chunks."""

    async def read_wrongly(file_id: FileId, pieces: Sequence[int]) -> Sequence[bytes | None]:
        found = await read(file_id, pieces)
        return [
            data if piece == 0 or data is None else bytes(len(data)) for piece, data in zip(pieces, found, strict=True)
        ]

    return read_wrongly


async def test_when_all_neighbours_of_a_node_say_so_the_server_puts_it_out(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with served_pool(World(tmp_path), "ada", "bob", "cyd", "eve") as (server, (ada, bob, cyd, eve)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spoil, eve, lambda number: forged(ada, number))
            await until(lambda: server.statistics().core.expelled == 1, within_s=1800)
            nursery.cancel_scope.cancel()
        assert server.statistics().core.moved == STRIKES_PER_REMOVAL - 1
        assert server.statistics().core.closed["misbehaved"] == 1
        await until(lambda: not eve.pool.is_attached)
        await until(lambda: not seen_by(ada, eve).online)
        await ada.pool.send("is everybody well?")
        await bob.hears("is everybody well?")
        await cyd.hears("is everybody well?")
        for member in (ada, bob, cyd):
            assert member.pool.is_attached
            assert sum(other.linked for other in member.pool.members()) == 2


async def test_what_was_seen_while_no_server_was_there_is_told_once_it_is_back(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world, end = World(tmp_path), trio.Event()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        address = await nursery.start(world.run_server, end)
        nodes = [await stack.enter_async_context(world.node(name)) for name in ("ada", "bob", "cyd", "dan", "eve")]
        invite = await nodes[0].create_pool("garden", server=address)
        members = [await stack.enter_async_context(enter(node, invite, "someone")) for node in nodes]
        for member in members:
            await member.linked(4)
        end.set()
        *honest, _dan, eve = members  # who has no link at all finds nobody again without a server
        await until(lambda: not any(member.pool.is_attached for member in members))
        for member in honest:
            async with trio.open_nursery() as forging:
                forging.start_soon(spoil, eve, lambda number: forged(honest[0], number), [member])
                await until(lambda seer=member: seer.pool.statistics().conduct.shunnings > 0)
                forging.cancel_scope.cancel()
        async with world.server() as server:
            await until(lambda: server.statistics().core.complaints == len(honest))
            assert server.statistics().core.moved == 1, "that is a majority"
            await trio.sleep(2 * CONDUCT_CHECK_INTERVAL_S)
            assert server.statistics().core.complaints == len(honest), "it was told again"


async def test_what_one_member_says_of_others_changes_nothing(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with served_pool(World(tmp_path), "ada", "bob", "cyd", "eve") as (server, (ada, bob, cyd, eve)):
        for _ in range(6):
            for member in (ada, bob, cyd):
                eve.pool._server.misbehaved(member.node.device_id, Kind.BAD_SIGNATURE)
            await trio.sleep(60)
        core = server.statistics().core
        assert core.complaints > 8
        assert (core.moved, core.expelled) == (0, 0)
        for member in (ada, bob, cyd, eve):
            assert member.pool.is_attached
            assert sum(other.linked for other in member.pool.members()) == 3
            assert member.pool.statistics().conduct.noted == {}


async def test_a_wrong_clock_is_seen_and_costs_nothing(tmp_path: Path, jumping_clock: MockClock) -> None:
    clocks = {name: WrongClock(3600.0 if name == "bob" else 0.0).wall for name in ("ada", "bob", "server")}
    async with served_pool(World(tmp_path, clocks=clocks), "ada", "bob") as (_, (ada, bob)):
        await trio.sleep(3 * CONDUCT_CHECK_INTERVAL_S)
        assert (seen_by(ada, bob).conduct, seen_by(bob, ada).conduct) == ("clock", None)
        assert seen_by(ada, bob).linked
        assert ada.pool.statistics().conduct.shunnings == 0


async def test_a_promise_that_is_not_kept_is_noted_and_lowers_the_credit_and_no_more(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    content = bytes(range(256)) * 16 * 1024
    (tmp_path / "source.bin").write_bytes(content)
    async with served_pool(World(tmp_path), "ada", "bob") as (_, (ada, bob)), trio.open_nursery() as nursery:
        offer = await ada.pool.files.offer(tmp_path / "source.bin")
        await bob.sees(poolnet.FileOffered)
        ada.pool.files.set_limits(up=1)
        nursery.start_soon(bob.pool.files.download, offer.file_id, tmp_path / "copy.bin")
        await until(lambda: bob.pool.statistics().conduct.noted.get("broken_promise", 0) >= 3)
        device: DeviceId = ada.node.device_id
        assert (seen_by(bob, ada).conduct, seen_by(bob, ada).linked) == ("broken_promise", True)
        assert bob.pool._conduct.credit_of(device) < 64
        await ada.pool.send("slow today")
        await bob.hears("slow today")
        nursery.cancel_scope.cancel()
