"""How much a link is asked for at a time, and how long it is waited for."""

import pytest

from poolnet.limits import (
    INITIAL_WANT_WINDOW,
    MAX_PROMISE_PATIENCE_S,
    MAX_WANT_WINDOW,
    MIN_WANT_WINDOW,
    PROMISE_TIMEOUT_S,
)
from poolnet.protocol.swarm_pace import Pace


def deliver(pace: Pace, count: int, *, every_s: float, start: float = 0.0, delay_s: float = 0.0) -> float:
    """Let a link that is asked for each piece deliver so many; return when the last came."""
    now = start
    pace.asked(count, now)
    pace.answered(count, delay_s)
    pace.promised(count, now)
    for _ in range(count):
        now += every_s
        pace.arrived(now, was_promised=True)
    return now


def test_a_link_begins_with_a_small_window_and_is_asked_for_all_of_it() -> None:
    pace = Pace()
    assert pace.room() == INITIAL_WANT_WINDOW
    pace.asked(5, 0.0)
    assert (pace.outstanding, pace.room()) == (5, INITIAL_WANT_WINDOW - 5)
    pace.answered(5, 0.1)
    pace.promised(3, 0.1)
    assert (pace.outstanding, pace.promised_count, pace.asked_count) == (3, 3, 0)
    assert pace.room() == INITIAL_WANT_WINDOW - 3


def test_the_rate_is_pieces_a_second_while_busy() -> None:
    pace = Pace()
    assert pace.delivery_s(5) is None
    now = deliver(pace, 10, every_s=0.02)
    assert pace.rate == pytest.approx(50.0)
    assert pace.delivery_s(5) == pytest.approx(0.1)
    deliver(pace, 10, every_s=0.02, start=now + 100.0)  # the pause was not the link's
    assert pace.rate == pytest.approx(50.0)


def test_the_window_is_a_turn_and_a_tenth_of_a_second_within_its_limits() -> None:
    for every_s, expected in ((0.02, 5), (0.01, 10), (0.0001, MAX_WANT_WINDOW), (0.5, MIN_WANT_WINDOW)):
        pace = Pace()
        deliver(pace, 2000 if every_s < 0.01 else 40, every_s=every_s)
        assert pace.window == expected


def test_a_longer_turn_makes_a_larger_window() -> None:
    pace = Pace()
    for number in range(60):
        pace.asked(1, number)
        pace.answered(1, 0.4)
    deliver(pace, 40, every_s=0.02, delay_s=0.4)
    assert pace.window == round(50 * (0.4 + 0.1))


def test_a_window_is_not_refilled_piece_by_piece() -> None:
    pace = Pace()
    now = deliver(pace, 400, every_s=0.002)
    window = pace.window
    assert window == 50
    pace.promised(window - 1, now)
    assert pace.room() == 0
    for _ in range(window // 2):
        now += 0.002
        pace.arrived(now, was_promised=True)
    assert pace.room() == window - pace.promised_count


def test_few_pieces_are_not_worth_a_want_where_others_bring_them_fast() -> None:
    pace = Pace()
    deliver(pace, 400, every_s=0.002)
    pace.promised(pace.window - 6, 1.0)
    assert pace.room(batch=20) == 0
    assert pace.room(batch=2) == 0  # half of the slack is not free yet
    idle = Pace()
    assert idle.room(batch=20) == 20


def test_a_link_stalls_when_something_is_due_and_nothing_comes() -> None:
    pace = Pace()
    assert pace.stall_at() is None
    pace.asked(1, 7.0)
    assert pace.stall_at() == 7.0 + PROMISE_TIMEOUT_S
    pace.asked(1, 9.0)  # more asking is no progress
    assert pace.stall_at() == 7.0 + PROMISE_TIMEOUT_S


def test_patience_doubles_with_each_stall_up_to_a_limit() -> None:
    pace = Pace()
    pace.promised(1, 0.0)
    expected = PROMISE_TIMEOUT_S
    for _ in range(8):
        expected = min(2 * expected, MAX_PROMISE_PATIENCE_S)
        pace.stall(50.0)
        assert pace.patience_s == expected
        assert (pace.is_stalled, pace.window, pace.rate, pace.progress_at) == (True, MIN_WANT_WINDOW, 0.0, 50.0)
        assert pace.resting_until == 51.0
    assert pace.delivery_s(1) is None


def test_whatever_arrives_ends_the_stall_and_says_how_patient_to_be() -> None:
    pace = Pace()
    pace.promised(2, 0.0)
    pace.stall(5.0)
    pace.arrived(17.0, was_promised=False)
    assert not pace.is_stalled
    assert pace.resting_until == 0.0
    assert pace.progress_at == 17.0
    assert pace.patience_s == 3 * (17.0 - 5.0)
    assert pace.promised_count == 2, "it was not promised any more"


def test_patience_is_forgotten_slowly_and_not_below_the_least() -> None:
    pace = Pace()
    pace.promised(100, 0.0)
    pace.arrived(10.0, was_promised=True)
    assert pace.patience_s == 30.0
    pace.arrived(10.1, was_promised=True)
    assert pace.patience_s == pytest.approx(30.0 * 0.95)
    for number in range(90):
        pace.arrived(10.2 + number / 10, was_promised=True)
    assert pace.patience_s == PROMISE_TIMEOUT_S


def test_a_sudden_fall_of_the_rate_is_believed_after_half_a_second_and_then_at_once() -> None:
    pace = Pace()
    now = deliver(pace, 96, every_s=1 / 64)
    assert pace.rate == 64.0
    pace.promised(40, now)
    assert pace.surplus(is_laggard=False) == 0
    for _ in range(4):
        now += 7 / 64
        pace.arrived(now, was_promised=True)
    assert pace.rate == 64.0, "a busy host pauses for less"
    assert not pace.has_fallen
    now += 7 / 64
    assert pace.arrived(now, was_promised=True)
    assert pace.rate == pytest.approx(64 / 7)
    assert pace.has_fallen
    assert pace.surplus(is_laggard=False) == 35 - MIN_WANT_WINDOW
    assert pace.window == MIN_WANT_WINDOW


def test_what_is_promised_is_a_surplus_only_where_it_would_take_long() -> None:
    pace = Pace()
    assert pace.surplus(is_laggard=True) == 0, "no rate is known"
    now = deliver(pace, 40, every_s=0.02)
    pace.promised(7, now)
    assert pace.surplus(is_laggard=True) == 0, "half as much again as the window is none"
    pace.promised(1, now)
    assert pace.surplus(is_laggard=True) == 3
    assert pace.surplus(is_laggard=False) == 0, "8 pieces take a sixth of a second"
    pace.promised(500 - 8, now)
    assert pace.surplus(is_laggard=False) == 495, "500 take ten seconds"


def test_relayed_pieces_take_as_long_as_the_fastest_of_them_did() -> None:
    pace = Pace()
    pace.relayed(0.9)
    for _ in range(3):
        pace.relayed(5.0)
    pace.relayed(0.3)
    pace.relayed(2.0)
    deliver(pace, 40, every_s=0.02)
    assert pace.window == round(50 * (0.3 * 1.02 + 0.1))


def test_a_link_is_slow_if_one_piece_at_a_time_keeps_it_busy() -> None:
    pace = Pace()
    deliver(pace, 6, every_s=2.0)
    assert pace.is_slow
    assert pace.window == MIN_WANT_WINDOW
    fast = Pace()
    deliver(fast, 40, every_s=0.02)
    assert not fast.is_slow


def test_one_piece_at_a_time_is_enough_if_a_turn_is_short_against_the_time_between_two() -> None:
    for every_s, delay_s, is_slow in (
        (1 / 4, 0.0, True),  # less than half a piece in the slack
        (1 / 8, 0.0, True),  # a window of one, rounded
        (1 / 14, 0.0, True),
        (1 / 16, 0.0, False),  # a window of two
        (1 / 4, 0.2, False),  # a window of one, and as long as most of a piece takes
    ):
        pace = Pace()
        for number in range(60):
            pace.asked(1, number)
            pace.answered(1, delay_s)
        deliver(pace, 40, every_s=every_s, start=100.0, delay_s=delay_s)
        assert pace.is_slow is is_slow, (every_s, delay_s)


def test_after_a_stall_the_rate_is_measured_anew() -> None:
    pace = Pace()
    pace.promised(13, 0.0)
    for number in range(1, 4):  # too few and too soon to be a sample
        pace.arrived(number / 100, was_promised=True)
    pace.promised_count = 0
    pace.stall(5.0)
    now = deliver(pace, 3, every_s=0.02, start=6.0)
    assert pace.rate == 0.0, "nor is so little after it"
    deliver(pace, 3, every_s=0.02, start=now)
    assert pace.rate == pytest.approx(50.0)
