"""The keeper of agreement: two of them over histories on disk, whose links and databases fail as tests like."""

import random
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trio
from inbox_world import InboxWorld, open_inbox
from pool_builder import key_of
from trio.testing import MockClock

import poolnet
from poolnet.errors import Flood, LinkClosed, PoolnetError, ProtocolError, StoreError, Unreachable
from poolnet.ids import DeviceId, MsgId
from poolnet.message_db import Retention
from poolnet.net.link import Link
from poolnet.pool.agreement_keeper import AgreementFrame, AgreementKeeper
from poolnet.pool.delivery import DeliveryBook
from poolnet.protocol.key_set import KeySet
from poolnet.protocol.reconcile import Answer
from poolnet.storage import message_changes
from poolnet.wire.bodies import ProfileBody, RetractMessageBody
from poolnet.wire.claims import HIGHEST, LOWEST
from poolnet.wire.message import Message, encode_message
from poolnet.wire.pool_frames import HISTORY, Messages, WantMessages

pytestmark = pytest.mark.timeout(60)

T = TypeVar("T")
ANN, BOB = (key_of(name).device_id for name in ("ann", "bob"))


class Side:
    """One of two nodes: an inbox with its history, and a keeper."""

    def __init__(self, world: InboxWorld, nursery: trio.Nursery, seed: int) -> None:
        self.world = world
        self.db = world.db
        self.book = DeliveryBook(nursery)
        self.keeper = AgreementKeeper(
            nursery=nursery,
            db=world.db,
            rng=random.Random(seed),
            corrected_ms=lambda: world.now_ms,
            inbox=world.inbox,
            book=self.book,
            pool_id=world.pool.pool_id,
            report=world.report,
        )
        world.finally_ = self.keeper.settled

    async def load(self) -> None:
        """Begin with what is in the history."""
        await self.keeper.load()
        self.db.bind(self.keeper.fetch_older, floor_moved=self.keeper.floor_moved)


class FakeLink:
    """One end of a link; `sent` is what went out at this one."""

    def __init__(self, peer: DeviceId, *, is_dialler: bool) -> None:
        self.peer = peer
        self.is_dialler = is_dialler
        self.is_open = True
        self.sent: list[Any] = []
        self._send, self.arriving = trio.open_memory_channel[AgreementFrame](1000)

    @property
    def as_link(self) -> Link:
        return cast("Link", self)

    def post_frame(self, frame: AgreementFrame) -> None:
        if not self.is_open:
            raise LinkClosed("closed")
        self.sent.append(frame)
        self._send.send_nowait(frame)

    async def send_frame(self, frame: AgreementFrame) -> None:
        await trio.lowlevel.checkpoint()
        self.post_frame(frame)

    async def flushed(self) -> None:
        await trio.sleep_forever()

    def close_now(self, *, code: str, reason: str) -> None:
        self.is_open = False


@asynccontextmanager
async def open_side(directory: Path, *, seed: int = 1) -> AsyncIterator[Side]:
    """Run a node without links."""
    await trio.Path(directory).mkdir(exist_ok=True)
    async with open_inbox(directory) as world, trio.open_nursery() as nursery:
        side = Side(world, nursery, seed)
        await side.load()
        nursery.start_soon(side.keeper.run)
        yield side
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked(ann: Side, bob: Side) -> AsyncIterator[tuple[FakeLink, FakeLink]]:
    """Link two nodes; ann dials."""
    to_bob, to_ann = FakeLink(BOB, is_dialler=True), FakeLink(ANN, is_dialler=False)

    async def carry(source: FakeLink, target: Side, link: FakeLink) -> None:
        async for frame in source.arriving:
            await trio.sleep(0.01)
            await target.keeper.handle_frame(link.as_link, frame)

    async with trio.open_nursery() as nursery:
        ann.keeper.link_up(to_bob.as_link)
        bob.keeper.link_up(to_ann.as_link)
        nursery.start_soon(carry, to_bob, bob, to_ann)
        nursery.start_soon(carry, to_ann, ann, to_bob)
        yield to_bob, to_ann
        nursery.cancel_scope.cancel()
    ann.keeper.link_down(to_bob.as_link)
    bob.keeper.link_down(to_ann.as_link)


def fail_once(side: Side, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Let one call of a method of a history fail."""
    real: Callable[..., Any] = getattr(side.db, method)

    async def fail(*_args: object, **_options: object) -> None:
        monkeypatch.setattr(side.db, method, real)
        await trio.lowlevel.checkpoint()
        raise StoreError("the disk is broken")

    monkeypatch.setattr(side.db, method, fail)


@asynccontextmanager
async def open_pair(directory: Path) -> AsyncIterator[tuple[Side, Side]]:
    """Run two nodes that keep their histories from the beginning on."""
    async with open_side(directory / "ann") as ann, open_side(directory / "bob", seed=2) as bob:
        for side in (ann, bob):
            await side.db.set_known_from(LOWEST)
            await side.load()
        yield ann, bob


async def test_two_histories_become_one_and_what_stands_with_them(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_pair(tmp_path) as (ann, bob):
        profile = ann.world.say(50, ProfileBody(name="Ann"))
        text = bob.world.say(60, "hello", by="bob")
        await ann.world.put(profile)
        await bob.world.put(text)
        async with linked(ann, bob):
            await ann.keeper.synced(HIGHEST, 10)
            await bob.keeper.synced(HIGHEST, 10)
        assert await ann.db.latest(10) == await bob.db.latest(10) == [profile, text]


def asked_for(side: Side, link: FakeLink, *messages: Message) -> int:
    """Have a node ask for messages; return the number of the request."""
    fetching = side.keeper._machines[HISTORY]._fetching
    fetching.note(BOB, [message.msg_id for message in messages], trio.current_time(), is_old=True)
    side.keeper.settled(())
    (want,) = [frame for frame in link.sent if isinstance(frame, WantMessages)]
    return want.number


async def test_what_was_not_asked_for_or_came_already_is_not_even_verified(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[Message] = []
    valid = poolnet.pool.inbox.signature_is_valid
    monkeypatch.setattr(
        "poolnet.pool.inbox.signature_is_valid", lambda message: (verified.append(message), valid(message))[1]
    )
    async with open_side(tmp_path) as side:
        link = FakeLink(BOB, is_dialler=True)
        side.keeper.link_up(link.as_link)
        asked, other = side.world.say(50, "asked for"), side.world.say(60, "not asked for")
        number = asked_for(side, link, asked)

        async def bring(number: int, *messages: Message) -> None:
            answer = Messages(
                scope=HISTORY, number=number, is_last=False, messages=tuple(map(encode_message, messages))
            )
            await side.keeper.handle_frame(link.as_link, answer)

        for wrong in ((number, other), (number + 1, asked)):
            with pytest.raises(Flood):
                await bring(*wrong)
        assert verified == []
        await bring(number, asked)
        await side.world.quiet()
        with pytest.raises(Flood):
            await bring(number, asked)
        assert verified == [asked]
        old, new = link, FakeLink(BOB, is_dialler=True)
        side.keeper.link_up(new.as_link)
        await side.keeper.handle_frame(
            old.as_link, Messages(scope=HISTORY, number=number, is_last=True, messages=(encode_message(other),))
        )
        assert verified == [asked]
        assert await side.db.latest(10) == [asked]


@pytest.mark.parametrize("last", [b"garbage", None])
async def test_what_came_in_one_frame_with_garbage_is_stored_and_not_pending(
    tmp_path: Path, jumping_clock: MockClock, last: bytes | None
) -> None:
    async with open_side(tmp_path) as side:
        link = FakeLink(BOB, is_dialler=True)
        side.keeper.link_up(link.as_link)
        good = side.world.say(50, "good")
        stranger = side.world.say(60, "of a stranger", by="eve")
        frame = Messages(
            scope=HISTORY,
            number=asked_for(side, link, good, stranger),
            is_last=True,
            messages=(encode_message(good), encode_message(stranger) if last is None else last),
        )
        with pytest.raises(PoolnetError) as refused:
            await side.keeper.handle_frame(link.as_link, frame)
        assert refused.value.code in ("bad_signature", "wire")
        await side.world.quiet()
        assert not side.world.inbox.is_pending(good.msg_id)
        assert await side.db.latest(10) == [good]


async def test_a_database_that_fails_once_delays_agreement_and_no_more(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_pair(tmp_path) as (ann, bob):
        text = ann.world.say(50, "hello")
        await ann.world.put(text)
        fail_once(ann, monkeypatch, "with_keys")
        fail_once(bob, monkeypatch, "with_keys")
        async with linked(ann, bob):
            await bob.keeper.synced(HIGHEST, 60)
        assert await bob.db.latest(10) == [text]
        assert ann.world.reported == bob.world.reported == ["store"]


async def test_a_message_that_could_not_be_read_once_is_given_when_it_is_asked_for_again(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_pair(tmp_path) as (ann, bob):
        text = ann.world.say(50, "hello")
        await ann.world.put(text)
        await ann.world.quiet()
        fail_once(ann, monkeypatch, "get")
        async with linked(ann, bob) as (to_bob, _):
            await bob.keeper.synced(HIGHEST, 9)
            answers = [frame for frame in to_bob.sent if isinstance(frame, Messages)]
            assert [len(frame.messages) for frame in answers] == [0, 1]
        assert await bob.db.latest(10) == [text]


async def test_what_is_deleted_stands_no_more(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_pair(tmp_path) as (ann, bob):
        profile = ann.world.say(50, ProfileBody(name="Ann"))
        other = ann.world.say(51, ProfileBody(name="Anne"))
        for side in (ann, bob):
            await side.world.put(profile, other)
            await side.world.quiet()
        await bob.db._worker.run(delete, profile.msg_id)
        async with linked(ann, bob) as (_, to_ann):
            await bob.keeper.synced(HIGHEST, 20)
            assert any(isinstance(frame, WantMessages) for frame in to_ann.sent), "it was taken to be there"
        assert await bob.db.latest(10) == [profile, other]


async def test_what_stands_is_compared_and_none_of_it_is_kept_in_memory(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with open_pair(tmp_path) as (ann, bob):
        names = [ann.world.say(1 + number, ProfileBody(name=f"Ann {number}")) for number in range(3000)]
        for side in (ann, bob):
            await side.db.append(names)
        retracted = ann.world.say(5000, RetractMessageBody(msg_id=names[1500].msg_id))
        last = bob.world.say(5001, ProfileBody(name="Bob"), by="bob")
        await ann.db.append([retracted])
        await bob.db.append([last])
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await ann.load()
            await bob.load()
            async with linked(ann, bob):
                await ann.keeper.synced(HIGHEST, 20)
                after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for side in (ann, bob):
            assert await side.db.count() == 3001
            assert await side.db.with_standing_keys(lambda keys: keys.summary(LOWEST, HIGHEST).count) == 3001
        assert after - before < 2 * 3000 * 40, "each message that stands costs memory"


def delete(connection: sqlite3.Connection, msg_id: MsgId) -> None:
    """Delete a message as a retraction does."""
    message_changes._delete(connection, [msg_id])


async def test_an_own_message_that_came_after_the_comparison_is_not_confirmed_by_it(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_pair(tmp_path) as (ann, bob):
        early, late = ann.world.say(50, "early"), ann.world.say(60, "late")  # late is not even stored yet
        await ann.db.append([early])
        await bob.db.append([early])
        ann.book.add(early)
        with_keys = ann.db.with_keys

        async def with_late(call: Callable[[KeySet], T]) -> T:
            result = await with_keys(call)
            if isinstance(result, Answer) and result.agreed:
                ann.book.add(late)
                monkeypatch.setattr(ann.db, "with_keys", with_keys)
            return result

        monkeypatch.setattr(ann.db, "with_keys", with_late)
        async with linked(ann, bob):
            await trio.sleep(1)
            assert ann.book.unconfirmed() == {late.msg_id}


async def test_a_request_that_is_given_up_disturbs_no_other(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_pair(tmp_path) as (ann, bob):
        texts = [ann.world.say(50 + number, f"text {number}") for number in range(30)]
        await ann.db.append(texts)
        async with linked(ann, bob), trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(20)]

            async def ask(scope: trio.CancelScope) -> None:
                with scope:
                    await bob.db.fetch_older(None, 10)

            for number, scope in enumerate(scopes):
                nursery.start_soon(ask, scope)
                await trio.sleep(0.007 * number)
                scopes[number // 2].cancel()
            assert await bob.db.fetch_older(None, 10) == texts[-10:]
        assert bob.keeper._requests == {}


async def test_requests_end_when_the_pool_is_left(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_side(tmp_path) as side, trio.open_nursery() as nursery:
        side.keeper.link_up(FakeLink(BOB, is_dialler=True).as_link)
        scope = trio.CancelScope()
        messages: list[list[Message]] = []
        refused: list[str] = []

        async def run() -> None:
            with scope:
                await side.keeper.run()

        async def fetch() -> None:
            messages.append(await side.db.fetch_older(None, 10))

        async def sync() -> None:
            try:
                await side.keeper.synced(HIGHEST, 1000)
            except Unreachable as exc:
                refused.append(exc.code)

        for task in (run, fetch, sync):
            nursery.start_soon(task)
        await trio.sleep(1)
        assert (messages, refused) == ([], [])
        scope.cancel()
        await trio.sleep(1)
        assert (messages, refused) == ([[]], ["unreachable"])
        assert await side.db.fetch_older(None, 10) == []


async def test_where_a_history_is_known_from_is_kept_once_it_can_be(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_side(tmp_path / "ann") as ann, open_side(tmp_path / "bob", seed=2) as bob:
        await ann.db.set_known_from(LOWEST)
        await ann.load()
        await ann.db.append([ann.world.say(50, "hello")])
        fail_once(bob, monkeypatch, "set_known_from")
        async with linked(ann, bob):
            await bob.keeper.synced(HIGHEST, 10)
            assert await bob.db.known_from() is None
            await trio.sleep(10)
        assert await bob.db.known_from() is not None
        assert bob.world.reported == ["store"]


async def test_what_expired_by_itself_is_not_fetched_again(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_pair(tmp_path) as (ann, bob):
        texts = [ann.world.say(50 + number, f"text {number}") for number in range(150)]
        await bob.db.set_retention(Retention(max_count=10))
        for side in (ann, bob):
            await side.world.put(*texts)
            await side.world.quiet()
        assert await bob.db.latest(1000) == texts[-10:]
        async with linked(ann, bob) as (_, to_ann):
            await bob.keeper.synced(HIGHEST, 10)
            assert not any(isinstance(frame, WantMessages) for frame in to_ann.sent)


async def test_a_peer_that_does_not_keep_to_the_protocol_is_told_so(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_side(tmp_path) as side:
        link = FakeLink(BOB, is_dialler=True)
        side.keeper.link_up(link.as_link)
        frame = WantMessages(scope=HISTORY, number=1, ids=(MsgId(bytes(32)),))
        await side.keeper.handle_frame(link.as_link, frame)
        with pytest.raises(ProtocolError):
            await side.keeper.handle_frame(link.as_link, frame)
        assert not link.is_open


async def test_a_link_may_end_after_the_keeper_and_those_who_asked_it(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_inbox(tmp_path) as world, trio.open_nursery() as asking:
        side = Side(world, asking, seed=1)
        await side.load()
        link = FakeLink(BOB, is_dialler=True)

        async def ask() -> None:
            with pytest.raises(Unreachable):
                await side.keeper.synced(HIGHEST, 10)

        async with trio.open_nursery() as running:
            running.start_soon(side.keeper.run)
            side.keeper.link_up(link.as_link)
            asking.start_soon(ask)
            await trio.sleep(1)
            running.cancel_scope.cancel()
        await trio.sleep(1)
        side.keeper.link_down(link.as_link)
        asking.cancel_scope.cancel()
