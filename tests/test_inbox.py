"""The inbox: nothing that was accepted is lost or stays pending for ever, and nothing takes effect that is refused."""

from pathlib import Path

import pytest
import trio
from inbox_world import InboxWorld, open_inbox
from pool_builder import key_of
from trio.testing import MockClock

import poolnet
from poolnet.errors import DiskFull
from poolnet.limits import MAX_CLOCK_AHEAD_S, MAX_QUEUED_FRAMES, OLD_AFTER_S
from poolnet.protocol import quota
from poolnet.protocol.gossip import Verdict
from poolnet.wire.bodies import SignalBody
from poolnet.wire.message import Message, encode_message

pytestmark = pytest.mark.timeout(60)


async def stored(world: InboxWorld) -> list[Message]:
    return await world.db.latest(1000)


async def test_what_comes_in_order_takes_effect_at_once_and_is_stored_soon(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with open_inbox(tmp_path) as world:
        first, second, late = world.say(50_000, "first"), world.say(50_002, "second"), world.say(50_001, "late")
        await world.put(first, second)
        assert world.applied == [first, second]
        await world.put(late)
        assert world.inbox.is_pending(late.msg_id)
        await world.quiet()
        assert world.applied == [first, second, late]
        assert await stored(world) == [first, late, second]
        assert sorted(world.settled) == sorted(message.msg_id for message in (first, second, late))
        assert not any(world.inbox.is_pending(message.msg_id) for message in (first, second, late))


async def test_a_link_that_closes_while_the_inbox_is_full_leaves_nothing_pending(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with open_inbox(tmp_path) as world:
        await world.put(newest := world.say(60_000, "newest"))
        await world.quiet()
        world.fail_writes(fail=True)
        late = [world.say(50_000 + number, f"late {number}") for number in range(MAX_QUEUED_FRAMES + 202)]
        with trio.move_on_after(1):
            for message in late:
                await world.put(message)
        lost = [message for message in late if not world.inbox.is_pending(message.msg_id)]
        assert lost, "the inbox takes any number"
        world.fail_writes(fail=False)
        await trio.sleep(10)
        assert not any(world.inbox.is_pending(message.msg_id) for message in late)
        await world.put(*lost)
        await world.quiet()
        assert await stored(world) == [*late, newest]


@pytest.mark.parametrize("at_ms", [50_000, 70_000])
async def test_a_database_that_fails_is_tried_again_and_reported_once(
    tmp_path: Path, jumping_clock: MockClock, at_ms: int
) -> None:
    async with open_inbox(tmp_path) as world:
        await world.put(first := world.say(60_000, "first"))
        await world.quiet()
        world.fail_writes(fail=True)
        await world.put(second := world.say(at_ms, "second"))
        await trio.sleep(30)
        assert world.reported == ["store"]
        assert world.inbox.is_pending(second.msg_id)
        world.fail_writes(fail=False)
        await trio.sleep(10)
        assert set(await stored(world)) == {first, second}
        assert world.applied == [first, second]
        assert not world.inbox.is_pending(second.msg_id)


async def test_a_full_disk_that_a_link_does_not_wait_for_is_waited_for_by_others(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_inbox(tmp_path) as world:

        async def flush() -> None:
            await trio.lowlevel.checkpoint()
            raise DiskFull("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(world.db, "flush", flush)
            many = [world.say(50_000 + number, f"text {number}") for number in range(200)]
            with trio.move_on_after(0.1):
                await world.put(*many)
        await trio.sleep(20)
        assert not any(world.inbox.is_pending(message.msg_id) for message in many)
        assert await stored(world) == many


async def test_a_message_that_was_retracted_before_it_came_is_never_told(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with open_inbox(tmp_path) as world:
        slip = world.say(50_000, "slip")
        await world.put(tombstone := world.retract(49_000, slip))
        await world.quiet()
        await world.put(slip)
        await world.quiet()
        assert world.applied == [tombstone]
        assert await stored(world) == [tombstone]


async def test_a_message_right_behind_its_retraction_is_never_told(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_inbox(tmp_path) as world:
        slip = world.say(50_000, "slip")
        await world.put(tombstone := world.retract(50_001, slip), slip)
        await world.quiet()
        assert world.applied == [tombstone]
        assert await stored(world) == [tombstone]


async def test_a_retraction_by_somebody_who_may_not_keeps_nothing_away(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with open_inbox(tmp_path) as world:
        text = world.say(50_000, "text")
        await world.put(tombstone := world.retract(49_000, text, by="bob"), text)
        await world.quiet()
        assert set(world.applied) == {tombstone, text}
        assert await stored(world) == [tombstone, text]


async def test_what_a_member_wrote_after_its_removal_does_not_come_in_by_waiting(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with open_inbox(tmp_path) as world:
        ahead_ms = int(MAX_CLOCK_AHEAD_S) * 1000 + 5000
        await world.put(newest := world.say(60_000, "newest", by="bob"))
        await world.quiet()
        held = world.say(world.now_ms + ahead_ms, "from the future")
        late = world.say(50_000, "late")
        await world.put(held, late)
        assert world.inbox.is_held(held.msg_id)
        world.pool.remove("founder", "ann", at=40_000)
        await world.quiet()
        world.now_ms += ahead_ms
        world.inbox.clock_changed()
        await world.quiet()
        assert world.inbox.held == 0
        assert await stored(world) == [newest]
        assert world.applied == [newest]
        assert not world.inbox.is_pending(held.msg_id)


async def test_a_message_from_the_future_waits_and_takes_effect_once(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_inbox(tmp_path) as world:
        ahead_ms = int(MAX_CLOCK_AHEAD_S) * 1000 + 5000
        message = world.say(world.now_ms + ahead_ms, "from the future")
        await world.put(message)
        assert (world.inbox.held, world.applied) == (1, [])
        assert world.settled == [message.msg_id]
        append = world.db.append

        async def append_while_it_comes_again(messages: list[Message], *, durable: bool = False) -> list[Message]:
            added = await append(messages, durable=durable)
            if not world.inbox.is_pending(message.msg_id):
                await world.put(message)
            return added

        world.db.append = append_while_it_comes_again  # type: ignore[method-assign, assignment]
        world.now_ms += ahead_ms
        world.inbox.clock_changed()
        await world.quiet()
        assert world.applied == [message]
        assert await stored(world) == [message]


async def test_what_is_not_of_a_history_is_taken_from_gossip_only(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_inbox(tmp_path) as world:
        signal = world.say(50_000, SignalBody(to=key_of("bob").device_id, signal=b"hello"))
        verdict = world.inbox.judge_fetched(signal.msg_id, encode_message(signal))
        assert verdict is Verdict.REJECT
        assert not world.inbox.is_pending(signal.msg_id)
        assert world.ephemeral == []
        await world.put(signal)
        assert world.ephemeral == [signal]
        assert not world.inbox.is_pending(signal.msg_id)
        assert await stored(world) == []


async def test_when_too_much_is_retracted_to_be_remembered_the_database_is_asked(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolnet.pool.inbox._MAX_RETRACTED", 2)
    async with open_inbox(tmp_path) as world:
        slips = [world.say(50_000 + number, f"slip {number}") for number in range(5)]
        tombstones = [world.retract(40_000 + number, slip) for number, slip in enumerate(slips)]
        await world.put(*tombstones)
        await world.quiet()
        text = world.say(60_000, "text")
        await world.put(*slips, text)
        await world.quiet()
        assert world.applied == [*tombstones, text]
        assert await stored(world) == [*tombstones, text]
        assert len(world.inbox._retracted) == 2


async def test_what_is_said_again_long_after_costs_its_author_nothing_and_is_not_verified_without_end(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "OLD_BURST", 3.0)
    monkeypatch.setattr(quota, "OLD_RATE", 0.0)
    monkeypatch.setattr(quota, "AUTHOR_BURST", 2.0)
    monkeypatch.setattr(quota, "AUTHOR_RATE", 0.0)
    verified: list[Message] = []
    valid = poolnet.pool.inbox.signature_is_valid
    monkeypatch.setattr(
        "poolnet.pool.inbox.signature_is_valid", lambda message: (verified.append(message), valid(message))[1]
    )
    async with open_inbox(tmp_path) as world:
        world.now_ms = 10_000_000
        then_ms = world.now_ms - int(OLD_AFTER_S * 1000) - 1
        old = [world.say(then_ms - number, f"said before {number}") for number in range(20)]
        verdicts = [world.inbox.judge(message.msg_id, encode_message(message)) for message in old]
        assert verdicts == [Verdict.ACCEPT] * 3 + [Verdict.DEFER] * 17
        assert verified == old[:3]
        await world.put(*[world.say(world.now_ms - number, f"new {number}") for number in range(2)])
        of_bob = world.say(then_ms, "by a wrong clock", by="bob")
        assert world.inbox.judge(of_bob.msg_id, encode_message(of_bob)) is Verdict.DEFER
        assert world.inbox.judge_fetched(of_bob.msg_id, encode_message(of_bob)) is Verdict.ACCEPT
