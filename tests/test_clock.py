"""Hybrid logical clocks: order follows causes, whatever the clocks say."""

from hypothesis import given
from hypothesis import strategies as st

from poolnet.clock import Hlc, HybridClock, hlc_ms, make_hlc

times = st.integers(0, 2**46)


@given(times, st.integers(0, 2**16 - 1))
def test_a_stamp_keeps_its_milliseconds(unix_ms: int, counter: int) -> None:
    assert hlc_ms(make_hlc(unix_ms, counter)) == unix_ms


@given(st.lists(times, min_size=2, max_size=50))
def test_stamps_of_one_device_only_ascend_even_if_its_clock_runs_back(readings: list[int]) -> None:
    clock = HybridClock()
    stamps = [clock.tick(unix_ms) for unix_ms in readings]
    assert stamps == sorted(set(stamps))


@given(st.lists(st.tuples(st.booleans(), times), max_size=50), st.integers(-(10**9), 10**9))
def test_an_answer_comes_after_what_it_answers(steps: list[tuple[bool, int]], skew: int) -> None:
    """Two devices, one with a wrong clock; each message is seen by the other before it sends its own."""
    clocks = (HybridClock(), HybridClock())
    last = Hlc(-1)
    for is_second, unix_ms in steps:
        stamp = clocks[is_second].tick(max(0, unix_ms + (skew if is_second else 0)))
        assert stamp > last
        clocks[not is_second].observe(stamp)
        last = stamp


def test_a_stamp_is_real_time_when_nothing_pushes_it() -> None:
    clock = HybridClock()
    clock.tick(1000)
    assert clock.tick(5000) == make_hlc(5000)


def test_many_stamps_in_one_millisecond_count_up() -> None:
    clock = HybridClock(last=make_hlc(1000))
    assert [clock.tick(1000) for _ in range(3)] == [make_hlc(1000, n) for n in (1, 2, 3)]


def test_an_old_stamp_does_not_turn_the_clock_back() -> None:
    clock = HybridClock(last=make_hlc(1000))
    clock.observe(make_hlc(500))
    assert clock.tick(0) > make_hlc(1000)


def test_the_offset_corrects_both_what_we_stamp_and_what_we_judge() -> None:
    clock = HybridClock()
    clock.offset_ms = 2000
    assert clock.now_ms(1000) == 3000
    assert clock.tick(1000) == make_hlc(3000)
    assert clock.ahead_s(make_hlc(4500), 1000) == 1.5
    assert clock.ahead_s(make_hlc(2500), 1000) == -0.5
