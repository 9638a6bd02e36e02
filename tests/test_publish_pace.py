"""Publishing as fast as the links take it: for whom it waits, for how long, and what is lost by cancelling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
from test_pool import Member, World
from trio.testing import MockClock, wait_all_tasks_blocked

from poolnet.errors import LinkClosed
from poolnet.ids import DeviceId
from poolnet.limits import MAX_PUBLISHING, MAX_TEXT_CHARS, MAX_UNACKNOWLEDGED_CONTROL, PUBLISH_PATIENCE_S
from poolnet.net.link import Link
from poolnet.pool import publish_pace
from poolnet.pool.publish_pace import PublishPace

pytestmark = pytest.mark.timeout(120)

HALF, QUARTER = MAX_UNACKNOWLEDGED_CONTROL // 2, MAX_UNACKNOWLEDGED_CONTROL // 4


@attrs.define(eq=False)
class FakeLink:
    """A link of which a test says how far it is behind."""

    behind: int = 0
    is_closed: bool = False
    _changed: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)

    async def caught_up(self, size_bytes: int) -> None:
        while self.behind > size_bytes:
            if self.is_closed:
                raise LinkClosed("closed")
            await self._changed.park()

    def set(self, behind: int) -> None:
        self.behind = behind
        self._changed.unpark_all()

    def close(self) -> None:
        self.is_closed = True
        self._changed.unpark_all()


def pace_of(*links: FakeLink, pushed: int | None = None) -> PublishPace:
    by_peer = {DeviceId(bytes([number]) * 32): cast("Link", link) for number, link in enumerate(links)}
    return PublishPace(by_peer, lambda: len(links) if pushed is None else pushed)


async def waited_s(pace: PublishPace) -> float:
    began = trio.current_time()
    async with pace.turn():
        return trio.current_time() - began


async def after(seconds: float, do: Callable[[], None]) -> None:
    await trio.sleep(seconds)
    do()


@pytest.mark.parametrize("behind", [(), (HALF,), (HALF, HALF, HALF), (HALF + 1, 0), (HALF + 1, HALF + 1, 0, 0)])
async def test_nobody_waits_while_links_keep_up_or_only_some_of_them_do_not(
    autojump_clock: MockClock, behind: tuple[int, ...]
) -> None:
    assert await waited_s(pace_of(*map(FakeLink, behind))) == 0


async def test_one_slow_link_is_not_waited_for_however_few_are_pushed_to(autojump_clock: MockClock) -> None:
    assert await waited_s(pace_of(FakeLink(HALF + 1), FakeLink(), FakeLink(), pushed=1)) == 0


async def test_the_only_link_is_waited_for_until_it_is_only_a_quarter_behind(autojump_clock: MockClock) -> None:
    link = FakeLink(HALF + 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after, 1.0, lambda: link.set(HALF))
        nursery.start_soon(after, 2.0, lambda: link.set(QUARTER + 1))
        nursery.start_soon(after, 3.0, lambda: link.set(QUARTER))
        assert await waited_s(pace_of(link)) == pytest.approx(3.0)


async def test_of_several_most_are_waited_for_and_the_last_ones_that_lag_are_not(autojump_clock: MockClock) -> None:
    links = [FakeLink(HALF + 1) for _ in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after, 1.0, lambda: links[0].set(0))
        nursery.start_soon(after, 2.0, lambda: links[1].set(0))
        assert await waited_s(pace_of(*links)) == pytest.approx(2.0)


async def test_a_link_that_does_not_catch_up_is_waited_for_only_so_long_and_again_once_it_has(
    autojump_clock: MockClock,
) -> None:
    link = FakeLink(HALF + 1)
    pace = pace_of(link)
    assert await waited_s(pace) == pytest.approx(PUBLISH_PATIENCE_S)
    for behind in (HALF + 5000, QUARTER + 1, HALF + 1):
        link.set(behind)
        assert await waited_s(pace) == 0, "it has not caught up"
    link.set(QUARTER)
    assert await waited_s(pace) == 0
    link.set(HALF + 1)
    assert await waited_s(pace) == pytest.approx(PUBLISH_PATIENCE_S)


async def test_a_link_that_closes_is_not_waited_for(autojump_clock: MockClock) -> None:
    links = [FakeLink(HALF + 1), FakeLink(HALF + 1)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after, 1.0, links[0].close)
        assert await waited_s(pace_of(*links)) == pytest.approx(1.0)


async def test_so_many_publish_at_once_that_no_link_falls_too_far_behind_and_the_others_in_their_order(
    autojump_clock: MockClock,
) -> None:
    link = FakeLink()
    pace = pace_of(link)
    most, order = 0, []

    async def publish(number: int) -> None:
        nonlocal most
        async with pace.turn():
            await trio.sleep(0.01)  # the database
            order.append(number)
            link.set(link.behind + 17_000)
            most = max(most, link.behind)

    async def consume() -> None:
        while True:
            await trio.sleep(0.1)
            link.set(max(0, link.behind - 50_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        async with trio.open_nursery() as publishing:
            for number in range(300):
                publishing.start_soon(publish, number)
                await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sorted(order) == list(range(300))
    assert all(abs(place - number) <= MAX_PUBLISHING for place, number in enumerate(order))
    assert HALF < most < MAX_UNACKNOWLEDGED_CONTROL


async def test_whoever_gives_up_waiting_leaves_its_turn_to_others(autojump_clock: MockClock) -> None:
    link = FakeLink(HALF + 1)
    pace = pace_of(link)
    for _ in range(2 * MAX_PUBLISHING):
        with trio.move_on_after(0.01) as scope:
            await waited_s(pace)
        assert scope.cancelled_caught
    link.set(0)
    assert await waited_s(pace) == 0


# --- whole nodes ------------------------------------------------------------------------------------------------

#: What a link may be behind in these tests, so that it takes few messages to get there.
WINDOW = MAX_UNACKNOWLEDGED_CONTROL // 16
LONG = "x" * MAX_TEXT_CHARS


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links close, and publishing waits, at a fraction of what they may be behind."""
    for module in ("link", "frame_inbox", "frame_outlet"):
        monkeypatch.setattr(f"poolnet.net.{module}.MAX_UNACKNOWLEDGED_CONTROL", WINDOW)
    monkeypatch.setattr(publish_pace, "_BEHIND", WINDOW // 2)
    monkeypatch.setattr(publish_pace, "_CAUGHT_UP", WINDOW // 4)


def take_slowly(member: Member, monkeypatch: pytest.MonkeyPatch, frame_s: float) -> None:
    """Let a member take so long for each frame about messages."""
    flow = member.pool._flow
    real: Callable[..., Any] = flow.handle_frame

    async def handle_frame(link: Link, frame: Any) -> None:
        await trio.sleep(frame_s)
        await real(link, frame)

    monkeypatch.setattr(flow, "handle_frame", handle_frame)


def links_of(member: Member) -> list[Link]:
    return list(member.pool._links.links.values())


async def test_a_loop_that_sends_to_a_slow_neighbour_goes_at_its_pace_and_keeps_the_link(
    tmp_path: Path, jumping_clock: MockClock, small_window: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path).pool("ada", "bob") as (ada, bob):
        await trio.sleep(5)
        take_slowly(bob, monkeypatch, 0.02)
        (link,) = links_of(ada)
        count = 3 * WINDOW // len(LONG)
        most, began = 0, trio.current_time()
        for _ in range(count):
            await ada.pool.send(LONG)
            most = max(most, link.behind)
        assert trio.current_time() - began > 0.5 * 0.02 * count
        assert WINDOW // 2 < most < WINDOW * 3 // 4
        assert links_of(ada) == [link]
        assert not link.is_closed
        await ada.pool.send("last")
        await bob.hears("last")
        assert await bob.pool.messages.count() == await ada.pool.messages.count()


async def test_a_neighbour_that_takes_nothing_is_let_go_and_the_others_are_told_at_once(
    tmp_path: Path, jumping_clock: MockClock, small_window: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path).pool("ada", "bob", "cid") as (ada, bob, cid):
        await trio.sleep(5)
        take_slowly(bob, monkeypatch, 1000.0)
        stuck = ada.pool._links.links[bob.node.device_id]
        began = trio.current_time()
        for number in range(2 * WINDOW // len(LONG)):
            await ada.pool.send(f"{number} {LONG}"[:MAX_TEXT_CHARS])
        assert stuck.is_closed
        assert (stuck.close_reason or "").startswith("too_slow")
        await ada.pool.send("last")
        await cid.hears("last", within_s=2)
        assert trio.current_time() - began < PUBLISH_PATIENCE_S


async def test_a_message_whose_sending_is_cancelled_while_it_waits_is_nowhere(
    tmp_path: Path, jumping_clock: MockClock, small_window: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path).pool("ada", "bob") as (ada, bob):
        await trio.sleep(5)
        take_slowly(bob, monkeypatch, 0.2)
        (link,) = links_of(ada)
        while link.behind <= WINDOW // 2:
            await ada.pool.send(LONG)
        before = await ada.pool.messages.count()
        with trio.move_on_after(0.5) as scope:
            await ada.pool.send("not said")
        assert scope.cancelled_caught
        assert await ada.pool.messages.count() == before
        await ada.pool.send("said")
        await bob.hears("said", within_s=600)
        assert "not said" not in bob.texts()
