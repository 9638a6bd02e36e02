"""Whole nodes whose system clocks are wrong or are set while they talk: nobody loses anything, all see one order."""

from pathlib import Path

import pytest
import trio
from test_pool import Member, World, enter
from trio.testing import MockClock
from wrong_clock import WrongClock, true_ms

import poolnet
from poolnet.limits import CLOCK_CHECK_INTERVAL_S, MAX_CLOCK_AHEAD_S

pytestmark = pytest.mark.timeout(120)

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


def world_of(directory: Path, **errors_s: float) -> tuple[World, dict[str, WrongClock]]:
    """Return a world whose devices, and its server, have clocks with these errors."""
    clocks = {name: WrongClock(error_s) for name, error_s in {"server": 0.0, **errors_s}.items()}
    return World(directory, clocks={name: clock.wall for name, clock in clocks.items()}), clocks


def warnings(member: Member) -> list[int]:
    """Return what a member was told of its clock."""
    return [round(event.ahead_s) for event in member.events if isinstance(event, poolnet.ClockWrong)]


async def history(member: Member) -> list[poolnet.HistoryEntry]:
    """Return all that a member has of what was said, in the order of the pool."""
    found = await member.node.history(member.node.find_pool("garden"), limit=1000)
    return [entry for entry in found if entry.text is not None]


async def talk(members: list[Member], *, rounds: int, pause_s: float = 0.5) -> list[str]:
    """Let all speak in turn, each when all have heard the one before; return the texts in that order."""
    said = []
    for number in range(rounds):
        for member in members:
            text = f"{number} by {member.pool.display_name} at {trio.current_time()}"
            await member.pool.send(text)
            said.append(text)
            for hearer in members:
                await hearer.hears(text)
            await trio.sleep(pause_s)
    return said


async def test_devices_whose_clocks_are_a_day_off_talk_in_one_order_and_only_they_are_warned(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world, _ = world_of(tmp_path, ada=0.0, bob=DAY_S, cyd=0.0, dan=-DAY_S)
    async with world.pool("ada", "bob", "cyd", "dan") as members:
        said = await talk(members, rounds=3)
        await trio.sleep(20 * CLOCK_CHECK_INTERVAL_S)
        for member in members:
            entries = await history(member)
            assert [entry.text for entry in entries] == said
            assert all(abs(entry.unix_ms - true_ms()) < 120_000 for entry in entries)
            assert {entry.name for entry in entries} == {"ada", "bob", "cyd", "dan"}
            assert member.pool.statistics().messages.held == 0
        assert [warnings(member) for member in members] == [[], [DAY_S], [], [-DAY_S]]


async def test_a_founder_whose_clock_is_a_day_ahead_is_heard_at_once(tmp_path: Path, jumping_clock: MockClock) -> None:
    world, _ = world_of(tmp_path, ada=DAY_S, bob=0.0)
    async with world.pool("ada", "bob") as (ada, bob):
        said = await talk([ada, bob], rounds=2)
        assert [entry.text for entry in await history(bob)] == said
        invite = await ada.node.invite(ada.node.find_pool("garden"))
        async with world.node("cyd") as node, enter(node, invite, "cyd") as cyd:
            await cyd.hears(*said)
            assert sorted(member.name for member in cyd.pool.members()) == ["ada", "bob", "cyd"]


async def test_a_clock_that_is_set_by_hours_while_it_runs_moves_no_message(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world, clocks = world_of(tmp_path, ada=0.0, bob=0.0, cyd=0.0)
    async with world.pool("ada", "bob", "cyd") as members:
        said = []
        for error_s in (5 * HOUR_S, -7 * HOUR_S, 0.0):
            clocks["bob"].error_s = error_s
            said += await talk(members, rounds=2)
            await trio.sleep(4 * CLOCK_CHECK_INTERVAL_S)
        for member in members:
            entries = await history(member)
            assert [entry.text for entry in entries] == said
            for entry in entries:
                written_s = float((entry.text or "").rpartition(" ")[2])
                assert entry.unix_ms - true_ms() == pytest.approx(1000 * (written_s - trio.current_time()), abs=100)
        assert [warnings(member) for member in members] == [[], [5 * HOUR_S, -7 * HOUR_S], []]


async def test_what_a_clock_that_is_ahead_stamped_alone_is_held_then_released_and_what_follows_is_heard_at_once(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    ahead_s = MAX_CLOCK_AHEAD_S + 120
    world, _ = world_of(tmp_path, ada=0.0, bob=ahead_s)
    async with world.node("ada") as ada_node, world.node("bob") as bob_node:
        async with world.server() as server:
            invite = await ada_node.create_pool("garden", server=server.address)
            async with enter(bob_node, invite, "bob"):
                pass
        async with enter(bob_node, "garden", "bob") as bob:
            await bob.pool.send("nobody tells me the time")
            written_at = trio.current_time()
            async with world.server(), enter(ada_node, "garden", "ada") as ada:
                await bob.linked(1)
                await trio.sleep(10)
                await bob.pool.send("now they do")
                await ada.hears("now they do")
                assert "nobody tells me the time" not in ada.texts()
                assert ada.pool.statistics().messages.held == 1
                await ada.hears("nobody tells me the time", within_s=ahead_s)
                assert trio.current_time() - written_at == pytest.approx(120, abs=10)
                assert ada.pool.statistics().messages.held == 0
                orders = [[entry.text for entry in await history(member)] for member in (ada, bob)]
                assert orders == [["now they do", "nobody tells me the time"]] * 2


async def test_what_a_wrong_clock_stamped_in_an_earlier_session_does_not_push_what_is_said_in_this_one(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world, _ = world_of(tmp_path, ada=0.0, bob=DAY_S)
    async with world.node("ada") as ada_node, world.node("bob") as bob_node:
        async with world.server() as server:
            invite = await ada_node.create_pool("garden", server=server.address)
            async with enter(bob_node, invite, "bob") as bob, enter(ada_node, "garden", "ada") as ada:
                await ada.pool.send("said in time")
                await bob.hears("said in time")
        async with enter(bob_node, "garden", "bob") as bob:
            await bob.pool.send("nobody tells me the time")
        async with world.server(), enter(ada_node, "garden", "ada") as ada, enter(bob_node, "garden", "bob") as bob:
            await bob.linked(1)
            await bob.pool.send("now they do")
            await ada.hears("now they do")
            assert [entry.text for entry in await history(ada)] == ["said in time", "now they do"]


async def test_the_only_neighbour_of_a_device_that_met_no_server_cannot_have_what_it_says_held_back(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world, _ = world_of(tmp_path, ada=0.0, bob=0.0)
    async with world.pool("ada", "bob") as (ada, bob):
        await ada.pool.send("in time")
        await bob.hears("in time")
        time = bob.pool._time
        time._server_clock._start_ms = None  # as if it had never been heard
        for error_s in (DAY_S, -DAY_S):
            says = bob.pool._links.links[ada.node.device_id]._pings._their_clock.says
            told_ms = bob.node._time.now_ms() + round(error_s * 1000)
            says(told_ms, at_elapsed_ms=bob.node._time.elapsed_ms())
            assert time.clock.now_ms(time.unix_ms()) == pytest.approx(true_ms(), abs=100)
            await bob.pool.send(f"misled by {error_s}")
            await ada.hears(f"misled by {error_s}", within_s=2)
