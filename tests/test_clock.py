"""Hybrid logical clocks: order follows causes, whatever the clocks say."""

from hypothesis import given
from hypothesis import strategies as st

from poolnet.clock import (
    EARLIEST_UNIX_MS,
    LATEST_UNIX_MS,
    MAX_HLC,
    Hlc,
    HybridClock,
    agreed_offset_ms,
    hlc_ms,
    make_hlc,
)

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


NOW_MS = 1_800_000_000_000


def test_a_clock_is_corrected_by_the_median_of_the_others() -> None:
    assert agreed_offset_ms([], unix_ms=NOW_MS) == 0
    assert agreed_offset_ms([700], unix_ms=NOW_MS) == 700
    assert agreed_offset_ms([10**9, 300, -200], unix_ms=NOW_MS) == 300
    assert agreed_offset_ms([10**9, 300], unix_ms=NOW_MS) == 300, "of two the one that changes less"
    assert agreed_offset_ms([-(10**9), -300], unix_ms=NOW_MS) == -300


def test_who_claims_an_impossible_time_is_not_asked() -> None:
    absurd = [2**64 - 1 - NOW_MS, -NOW_MS, EARLIEST_UNIX_MS - 1 - NOW_MS, LATEST_UNIX_MS - NOW_MS]
    assert agreed_offset_ms(absurd, unix_ms=NOW_MS) == 0
    assert agreed_offset_ms([*absurd, 40], unix_ms=NOW_MS) == 40


@given(st.lists(st.integers(-(2**64), 2**64)), st.integers(0, 2**50))
def test_a_corrected_clock_never_leaves_the_possible_and_the_honest_outvote_liars(lies: list[int], own: int) -> None:
    offset = agreed_offset_ms(lies, unix_ms=own)
    assert offset == 0 or EARLIEST_UNIX_MS <= own + offset < LATEST_UNIX_MS
    honest = [NOW_MS - own] * (len(lies) + 1)
    assert agreed_offset_ms([*lies, *honest], unix_ms=own) == NOW_MS - own


@given(st.integers(-(2**70), 2**70))
def test_no_clock_makes_a_stamp_that_cannot_be_stored(unix_ms: int) -> None:
    clock = HybridClock(last=Hlc(MAX_HLC - 1))
    assert clock.tick(unix_ms) == MAX_HLC
    assert clock.tick(unix_ms) == MAX_HLC
    assert 0 <= HybridClock().tick(unix_ms) <= MAX_HLC
