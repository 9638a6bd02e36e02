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
from poolnet.limits import MAX_CLOCK_AHEAD_S

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


DAY_MS = 24 * 3600_000
A_MONTH_MS = 30 * DAY_MS


def test_a_clock_is_corrected_by_the_median_of_the_others_and_itself() -> None:
    assert agreed_offset_ms([], unix_ms=NOW_MS) == 0
    assert agreed_offset_ms([10**9, 300], unix_ms=NOW_MS) == 300
    assert agreed_offset_ms([-(10**9), -300], unix_ms=NOW_MS) == -300
    assert agreed_offset_ms([-DAY_MS, -2 * DAY_MS], unix_ms=NOW_MS) == -DAY_MS
    assert agreed_offset_ms([10**9, 300, -200, -400], unix_ms=NOW_MS) == 0


def test_of_two_times_in_the_middle_that_counts_which_is_nearer_to_the_servers() -> None:
    assert agreed_offset_ms([], unix_ms=NOW_MS, server_offset_ms=-DAY_MS) == -DAY_MS
    assert agreed_offset_ms([DAY_MS], unix_ms=NOW_MS, server_offset_ms=10) == 10
    assert agreed_offset_ms([DAY_MS, DAY_MS], unix_ms=NOW_MS, server_offset_ms=10) == 10
    assert agreed_offset_ms([5], unix_ms=NOW_MS, server_offset_ms=DAY_MS) == 5, "two outvote a server"
    assert agreed_offset_ms([-4], unix_ms=NOW_MS, server_offset_ms=-NOW_MS) == -4, "a server without a clock has no say"


def test_without_a_server_two_devices_take_the_earlier_time_unless_that_is_absurd() -> None:
    """So nobody can have what another says held back by all, by being the first that it meets."""
    assert agreed_offset_ms([700], unix_ms=NOW_MS) == 0
    assert agreed_offset_ms([-700], unix_ms=NOW_MS) == -700
    assert agreed_offset_ms([-A_MONTH_MS], unix_ms=NOW_MS) == 0
    assert agreed_offset_ms([A_MONTH_MS], unix_ms=NOW_MS) == 0


def test_without_a_server_a_time_long_before_what_was_said_already_is_not_believed() -> None:
    for last_ms, offset_ms in ((NOW_MS - 10, 0), (NOW_MS - DAY_MS, -DAY_MS // 2), (0, -DAY_MS // 2)):
        assert agreed_offset_ms([-DAY_MS // 2], unix_ms=NOW_MS, seen_ms=last_ms) == offset_ms
    assert agreed_offset_ms([DAY_MS], unix_ms=NOW_MS, seen_ms=NOW_MS + DAY_MS) == DAY_MS, "ours is the wrong one"


@given(st.lists(st.integers(-DAY_MS, DAY_MS), min_size=2, max_size=7), st.booleans())
def test_devices_that_ask_each_other_come_to_the_same_time(errors: list[int], has_server: bool) -> None:
    """Whatever their clocks say: or one would hold back what another writes."""
    server_ms = NOW_MS + errors[0] if has_server else None
    clocks = [NOW_MS + error for error in errors]
    corrected = {
        own
        + agreed_offset_ms(
            [other - own for other in clocks[:place] + clocks[place + 1 :]],
            unix_ms=own,
            server_offset_ms=None if server_ms is None else server_ms - own,
        )
        for place, own in enumerate(clocks)
    }
    assert len(corrected) == 1


def test_stamps_made_by_a_wrong_clock_do_not_push_those_after_the_correction() -> None:
    clock = HybridClock(last=make_hlc(NOW_MS - 10))
    wrong = clock.tick(NOW_MS + DAY_MS)
    clock.correct(-DAY_MS, NOW_MS + DAY_MS)
    assert clock.tick(NOW_MS + DAY_MS) == make_hlc(NOW_MS, 1) < wrong
    clock.observe(make_hlc(NOW_MS + 50_000))  # of another, not far ahead: an answer still comes after it
    clock.correct(-DAY_MS, NOW_MS + DAY_MS)
    assert clock.tick(NOW_MS + DAY_MS) == make_hlc(NOW_MS + 50_000, 1)


def test_stamps_made_by_a_wrong_clock_count_again_when_others_believe_them() -> None:
    clock = HybridClock()
    early = clock.tick(NOW_MS + 74_000)
    clock.correct(-74_000, NOW_MS + 74_000)
    assert clock.tick(NOW_MS + 74_000) < early, "they hold it back"
    assert hlc_ms(clock.tick(NOW_MS + 75_000)) == NOW_MS + 1000
    assert clock.tick(NOW_MS + 74_000 + 17_000) > early, "they have it, 57 s ahead of the time"


def test_what_others_said_is_not_forgotten_with_what_a_wrong_clock_made() -> None:
    clock = HybridClock()
    clock.observe(make_hlc(NOW_MS + 30_000))
    clock.tick(NOW_MS + DAY_MS)
    clock.correct(-DAY_MS, NOW_MS + DAY_MS)
    assert clock.tick(NOW_MS + DAY_MS) == make_hlc(NOW_MS + 30_000, 1)


def test_an_answer_to_what_came_from_ahead_is_not_forgotten_either() -> None:
    clock = HybridClock()
    clock.observe(make_hlc(NOW_MS + 30_000))
    answers = [clock.tick(NOW_MS) for _ in range(3)]
    clock.tick(NOW_MS + DAY_MS)
    clock.correct(-DAY_MS, NOW_MS + DAY_MS)
    assert clock.tick(NOW_MS + DAY_MS) > max(answers)


def test_what_was_seen_while_everybody_was_wrong_is_followed_as_far_as_others_believe() -> None:
    """Else whoever was told a wrong time once would not be heard by anybody until then."""
    clock = HybridClock()
    near, far = make_hlc(NOW_MS + 50_000), make_hlc(NOW_MS + DAY_MS)
    clock.observe(near)
    clock.observe(far)
    clock.correct(0, NOW_MS)
    stamps = [clock.tick(NOW_MS) for _ in range(3)]
    assert stamps == sorted(set(stamps))
    assert near < stamps[0]
    assert clock.ahead_s(stamps[-1], NOW_MS) < MAX_CLOCK_AHEAD_S
    clock.correct(0, NOW_MS + DAY_MS - 30_000)
    assert clock.tick(NOW_MS + DAY_MS - 30_000) > far


def test_stamps_of_an_earlier_session_are_gone_on_from_unless_a_wrong_clock_made_them() -> None:
    clock = HybridClock()
    clock.resume(make_hlc(NOW_MS + 1000))
    assert clock.tick(NOW_MS) == make_hlc(NOW_MS + 1000, 1)
    clock.resume(make_hlc(NOW_MS + DAY_MS))
    clock.correct(0, NOW_MS)
    assert clock.tick(NOW_MS) == make_hlc(NOW_MS, 1)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.just(0)),
        st.tuples(st.just("observe"), st.integers(-120_000, 60_000)),
        st.tuples(st.just("correct"), st.integers(-200_000, 200_000)),
        st.tuples(st.just("wait"), st.integers(0, 40_000)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_time_a_device_is_told_it_says_nothing_below_what_it_saw_nor_above_what_others_believe(
    events: list[tuple[str, int]],
) -> None:
    """By the time that it has now, of whatever was seen by whatever time it had then; not of what it made itself."""
    clock, unix_ms, offset_ms = HybridClock(), NOW_MS, 0
    clock.correct(0, unix_ms)
    seen: list[Hlc] = []
    for kind, number in events:
        match kind:
            case "wait":
                unix_ms += number
                clock.correct(offset_ms, unix_ms)
            case "correct":
                offset_ms = number
                clock.correct(offset_ms, unix_ms)
            case "observe":
                seen.append(make_hlc(unix_ms + offset_ms + number))
                clock.observe(seen[-1])
            case "tick":
                stamp = clock.tick(unix_ms)
                believed = [hlc for hlc in seen if clock.ahead_s(hlc, unix_ms) <= MAX_CLOCK_AHEAD_S - 2]
                assert stamp > max(believed, default=Hlc(-1))
                assert clock.ahead_s(stamp, unix_ms) <= MAX_CLOCK_AHEAD_S


def test_who_claims_an_impossible_time_is_not_asked() -> None:
    absurd = [2**64 - 1 - NOW_MS, -NOW_MS, EARLIEST_UNIX_MS - 1 - NOW_MS, LATEST_UNIX_MS - NOW_MS]
    assert agreed_offset_ms(absurd, unix_ms=NOW_MS) == 0
    assert agreed_offset_ms([*absurd, -40], unix_ms=NOW_MS) == -40
    assert agreed_offset_ms([NOW_MS], unix_ms=0) == NOW_MS, "a device that believes in 1970 does not ask itself"


@given(st.lists(st.integers(-(2**64), 2**64)), st.integers(0, 2**50))
def test_a_corrected_clock_never_leaves_the_possible_and_the_honest_outvote_liars(lies: list[int], own: int) -> None:
    offset = agreed_offset_ms(lies, unix_ms=own)
    assert offset == 0 or EARLIEST_UNIX_MS <= own + offset < LATEST_UNIX_MS
    honest = [NOW_MS - own] * (len(lies) + 2)
    assert agreed_offset_ms([*lies, *honest], unix_ms=own) == NOW_MS - own


@given(st.integers(-(2**70), 2**70))
def test_no_clock_makes_a_stamp_that_cannot_be_stored(unix_ms: int) -> None:
    clock = HybridClock(last=Hlc(MAX_HLC - 1))
    assert clock.tick(unix_ms) == MAX_HLC
    assert clock.tick(unix_ms) == MAX_HLC
    assert 0 <= HybridClock().tick(unix_ms) <= MAX_HLC
