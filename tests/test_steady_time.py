"""The time of one device, and what time it is in a pool: without network."""

import time

import pytest
import trio
from trio.testing import MockClock
from wrong_clock import WrongClock, true_ms

from poolnet.limits import CLOCK_CHECK_INTERVAL_S, CLOCK_TOLERANCE_S, CLOCK_WAIT_S, CLOCK_WARNING_S
from poolnet.pool.clock_keeper import ClockKeeper
from poolnet.steady_time import MeasuredClock, SteadyTime

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


def seconds_off(unix_ms: int) -> float:
    """Return by how much a time is wrong."""
    return round((unix_ms - true_ms()) / 1000, 2)


def test_the_systems_clocks_are_read_unless_others_are_given() -> None:
    steady = SteadyTime()
    assert abs(steady.now_ms() - time.time() * 1000) < 2000
    assert steady.elapsed_ms() <= steady.elapsed_ms()


async def test_time_goes_on_evenly_when_somebody_sets_the_clock(autojump_clock: MockClock) -> None:
    clock = WrongClock()
    steady = SteadyTime(clock.wall)
    for error_s in (5 * HOUR_S, -DAY_S, 0.0):
        clock.error_s = error_s
        await trio.sleep(10)
        assert seconds_off(steady.now_ms()) == 0


async def test_the_system_clock_is_taken_over_only_if_it_was_set(autojump_clock: MockClock) -> None:
    clock = WrongClock()
    steady = SteadyTime(clock.wall)
    clock.error_s = 0.9 * CLOCK_TOLERANCE_S
    assert steady.adopt_system_clock() == 0
    assert seconds_off(steady.now_ms()) == 0
    clock.error_s = -HOUR_S
    assert steady.adopt_system_clock() == -HOUR_S * 1000
    assert seconds_off(steady.now_ms()) == -HOUR_S


async def test_how_far_another_clock_is_ahead_stays_true_when_ours_is_moved(autojump_clock: MockClock) -> None:
    clock = WrongClock(HOUR_S)
    steady = SteadyTime(clock.wall)
    assert MeasuredClock(steady).ahead_ms is None
    measured = MeasuredClock(steady)
    measured.says(true_ms(), at_elapsed_ms=steady.elapsed_ms())
    assert measured.ahead_ms == -HOUR_S * 1000
    await trio.sleep(5)
    clock.error_s = 0.0
    steady.adopt_system_clock()
    assert measured.ahead_ms == 0


class Device:
    """A keeper and those whom it asks; `others_s` are the errors of their clocks."""

    def __init__(self, clock: WrongClock, *others_s: float) -> None:
        self.clock = clock
        self.others_s = list(others_s)
        self.server_s: float | None = None
        self.changes = 0
        self.warnings: list[float] = []
        self.time = SteadyTime(clock.wall)
        self.keeper = ClockKeeper(
            self.time,
            neighbours=lambda: [self._ahead_ms(error_s) for error_s in self.others_s],
            server=lambda: None if self.server_s is None else self._ahead_ms(self.server_s),
            changed=self._count_change,
            warn=lambda ahead_s: self.warnings.append(round(ahead_s)),
        )

    def _ahead_ms(self, error_s: float) -> int:
        return true_ms() + round(1000 * error_s) - self.time.now_ms()

    def _count_change(self) -> None:
        self.changes += 1


async def after_looks(count: int) -> None:
    """Let a keeper look so many times."""
    await trio.sleep(count * CLOCK_CHECK_INTERVAL_S)


async def test_a_wrong_clock_is_corrected_and_its_user_told_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    device = Device(WrongClock(DAY_S), 0.0, 0.0)
    nursery.start_soon(device.keeper.run)
    assert seconds_off(device.keeper.corrected_ms()) == 0
    await after_looks(20)
    assert device.warnings == [DAY_S]
    assert device.changes == 1


async def test_a_right_clock_among_wrong_ones_is_not_blamed(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    device = Device(WrongClock(), DAY_S, -DAY_S)
    nursery.start_soon(device.keeper.run)
    await after_looks(20)
    assert seconds_off(device.keeper.corrected_ms()) == 0
    assert device.warnings == []


async def test_a_user_is_told_again_only_when_the_clock_is_wrong_by_something_else(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    device = Device(WrongClock(), 0.0, 0.0)
    nursery.start_soon(device.keeper.run)
    for error_s in (0.9 * CLOCK_WARNING_S, HOUR_S, HOUR_S + 0.9 * CLOCK_WARNING_S, 0.0, HOUR_S, -HOUR_S):
        device.clock.error_s = error_s
        await after_looks(4)
        assert seconds_off(device.keeper.corrected_ms()) == 0, "a clock that is set moves nothing"
    assert device.warnings == [HOUR_S, HOUR_S, -HOUR_S]


async def test_who_is_asked_first_may_be_wrong_and_nobody_is_blamed_for_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    device = Device(WrongClock(), DAY_S)
    nursery.start_soon(device.keeper.run)
    await trio.sleep(CLOCK_CHECK_INTERVAL_S / 2)
    device.others_s += [0.0, 0.0]
    await after_looks(5)
    assert device.warnings == []


async def test_alone_a_device_goes_by_its_system_clock_and_follows_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    device = Device(WrongClock(DAY_S))
    nursery.start_soon(device.keeper.run)
    assert seconds_off(device.keeper.corrected_ms()) == DAY_S
    device.clock.error_s = 0.0
    assert seconds_off(device.keeper.corrected_ms()) == 0
    await after_looks(5)
    assert device.warnings == []


async def test_what_the_server_said_counts_after_it_has_gone(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    device = Device(WrongClock(DAY_S))
    nursery.start_soon(device.keeper.run)
    device.keeper.server_says(true_ms())
    assert seconds_off(device.keeper.corrected_ms()) == 0
    device.server_s = 2.0  # what the link to it measured later is preferred
    await after_looks(2)
    device.server_s = None
    device.clock.error_s = -DAY_S
    await after_looks(5)
    assert seconds_off(device.keeper.corrected_ms()) == 2


async def test_the_first_message_waits_for_somebody_who_knows_the_time_but_not_for_ever(
    autojump_clock: MockClock,
) -> None:
    alone = Device(WrongClock())
    await alone.keeper.told()
    assert trio.current_time() == pytest.approx(CLOCK_WAIT_S)
    together = Device(WrongClock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(together.keeper.told)
        await trio.sleep(0.1)
        together.keeper.server_says(true_ms())
    assert trio.current_time() == pytest.approx(CLOCK_WAIT_S + 0.1)
