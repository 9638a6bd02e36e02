"""What is printed of a feed whose lines stay where they are."""

from collections.abc import Iterable

import hypothesis.strategies as st
from cli_fakes import ADA, said, text_event
from hypothesis import given

from poolnet import EventsDropped, MessageReceived, MessageRetracted
from poolnet.views.entries import entry_of_event
from poolnet_cli.printed_feed import FRESH_MS, GATHER_S, PrintedFeed, Printout


def texts(printout: Printout | None) -> list[str]:
    """Return the texts, with a star at those that are marked as late."""
    return [] if printout is None else [f"{entry.text}{'*' * entry.is_late}" for entry in printout.entries]


def event(ms: int) -> MessageReceived:
    return text_event(said(ms, str(ms)), str(ms))


class Screen:
    """A printed feed at a time that goes on as the test says."""

    def __init__(self, size: int, history: Iterable[int] = ()) -> None:
        self.now = 0.0
        self.printed = PrintedFeed(size)
        self.stored = list(history)
        self.load()
        self.begun = self.printed.flush()

    def load(self) -> None:
        entries = [entry_of_event(event(ms)) for ms in sorted(self.stored)[-self.printed.feed.size :]]
        self.printed.load([entry for entry in entries if entry is not None], None, self.now)

    def hear(self, ms: int, *, at_ms: int | None = None) -> list[str]:
        """Take a text of that time, at the time when it was said or another one."""
        self.stored.append(ms)
        return texts(self.printed.apply(event(ms), now=self.now, unix_ms=ms if at_ms is None else at_ms))

    def pass_time(self) -> Printout | None:
        self.now += GATHER_S
        return self.printed.flush() if self.now >= self.printed.due_at else None


def test_the_newest_messages_that_fit_come_first():
    assert texts(Screen(2, [1000, 2000, 3000]).begun) == ["2000", "3000"]


def test_what_is_said_now_is_printed_at_once_and_once():
    screen = Screen(5, [1000])
    assert screen.hear(9000) == ["9000"]
    assert screen.hear(9000) == []
    assert screen.pass_time() is None


def test_late_messages_are_gathered_and_the_feed_is_printed_again_from_the_first_of_them_on():
    screen = Screen(5, [1000, 20_000])
    assert screen.hear(30_000) == ["30000"]
    assert screen.hear(25_000, at_ms=30_000) == screen.hear(10_000, at_ms=30_000) == []
    again = screen.pass_time()
    assert again is not None
    assert again.is_again
    assert texts(again) == ["10000*", "20000", "25000*", "30000"]
    assert screen.hear(31_000) == ["31000"]


def test_what_is_late_by_a_moment_is_printed_at_the_end_and_marked():
    screen = Screen(5)
    screen.hear(10_000)
    assert screen.hear(10_001 - FRESH_MS, at_ms=10_000) == [f"{10_001 - FRESH_MS}*"]


def test_what_is_said_while_late_ones_are_gathered_comes_after_them():
    screen = Screen(5)
    screen.hear(10_000)
    screen.hear(5000, at_ms=10_000)
    assert screen.hear(10_100) == []
    assert texts(screen.pass_time()) == ["5000*", "10000", "10100"]


def test_what_was_said_while_this_device_was_away_comes_in_order_and_is_not_late():
    screen = Screen(5, [1000])
    for ms in (4000, 2000, 3000):
        assert screen.hear(ms, at_ms=10**6) == []
    caught_up = screen.pass_time()
    assert caught_up is not None
    assert not caught_up.is_again
    assert texts(caught_up) == ["2000", "3000", "4000"]


def test_what_belongs_above_the_window_is_counted_only():
    screen = Screen(2, [10_000, 11_000])
    for ms in (2000, 3000):
        screen.hear(ms, at_ms=20_000)
    assert screen.pass_time() == Printout(further_up=2)


def test_a_message_that_is_taken_back_before_it_was_printed_never_is():
    screen = Screen(5)
    screen.hear(10_000)
    screen.hear(5000, at_ms=10_000)
    gone = said(5000, "5000").msg_id
    screen.printed.apply(MessageRetracted(msg_id=gone, node=ADA, name="ada"), now=0, unix_ms=0)
    assert screen.pass_time() is None


def test_after_a_retraction_the_window_is_filled_up_without_printing_anything():
    screen = Screen(2, [1000, 2000, 3000])
    gone = said(3000, "3000").msg_id
    screen.printed.apply(MessageRetracted(msg_id=gone, node=ADA, name="ada"), now=0, unix_ms=0)
    screen.stored.remove(3000)
    assert screen.printed.feed.wants_load
    screen.load()
    assert screen.pass_time() is None
    assert [entry.text for entry in screen.printed.feed.messages] == ["1000", "2000"]


def test_what_was_missed_because_events_were_dropped_is_printed():
    screen = Screen(5, [1000])
    screen.printed.apply(EventsDropped(count=2), now=0, unix_ms=0)
    screen.stored += [2000, 3000]
    screen.load()
    assert texts(screen.pass_time()) == ["2000", "3000"]


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.booleans()), unique_by=lambda step: step[0], max_size=30),
)
def test_every_message_is_printed_or_counted_and_the_last_lines_are_the_end_of_the_history(
    size: int, steps: list[tuple[int, bool, bool]]
):
    screen = Screen(size)
    lines: list[int] = []
    counted = 0
    for number, is_old, has_pause in steps:
        printouts = [screen.printed.apply(event(number * 1500), now=screen.now, unix_ms=number * 1500 + 9000 * is_old)]
        printouts.append(screen.pass_time() if has_pause else None)
        for printout in filter(None, printouts):
            lines += [entry.unix_ms for entry in printout.entries]
            counted += printout.further_up
    last = screen.pass_time() or Printout()
    lines += [entry.unix_ms for entry in last.entries]
    heard = {number * 1500 for number, _, _ in steps}
    assert set(lines) <= heard
    assert len(set(lines)) + counted + last.further_up == len(heard)
    if last.is_again:
        assert [entry.unix_ms for entry in last.entries] == sorted(heard)[-len(last.entries) :]
