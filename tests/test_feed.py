"""Feed: the live window, against a plain list."""

import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from views_world import ADA, BOB, MemoryHistory, any_message, event_of, is_read, message, name_of, plain, text

from poolnet.events import EventsDropped, MessageRetracted, NodeJoined, NodeLeft, NodeRenamed, PoolEvent, ServerLost
from poolnet.ids import DeviceId
from poolnet.limits import MAX_NAMES_IN_NOTICE, MAX_NODES_IN_NOTICE
from poolnet.views.entries import HistoryEntry, entry_of
from poolnet.views.feed import Feed, FeedChange
from poolnet.views.notices import Notice, NoticeTally
from poolnet.wire.bodies import AnnouncementBody
from poolnet.wire.message import Message


def node(number: int) -> DeviceId:
    return DeviceId(number.to_bytes(32, "big"))


def joined(number: int) -> NodeJoined:
    return NodeJoined(node=node(number), name=f"n{number}")


def left(number: int) -> NodeLeft:
    return NodeLeft(node=node(number), name=f"n{number}")


def entry(item: Message) -> HistoryEntry:
    return entry_of(item, name_of)


def heard(item: Message, *, is_late: bool = False) -> PoolEvent:
    event = event_of(item, is_late=is_late)
    assert event is not None
    return event


def fed(size: int, *events: PoolEvent, loaded: list[Message] | None = None) -> Feed:
    feed = Feed(size)
    feed.load([entry(item) for item in loaded or []])
    for event in events:
        feed.apply(event)
    return feed


def shown(feed: Feed) -> list[str | Notice | None]:
    return [item.text if isinstance(item, HistoryEntry) else item for item in feed.entries]


# --- messages -----------------------------------------------------------------------------------------------------


def test_the_newest_messages_are_in_the_window_and_older_ones_leave_it():
    feed = fed(3, *(heard(text(ms)) for ms in (4, 5)), loaded=[text(1), text(2), text(3)])
    assert shown(feed) == ["at 3", "at 4", "at 5"]
    assert feed.is_full
    assert not feed.wants_load
    assert (feed.oldest_key, feed.newest_key) == (text(3).key, text(5).key)


def test_a_late_message_is_put_in_its_place_and_marked():
    feed = fed(4, loaded=[text(1), text(3)])
    change = feed.apply(heard(text(2), is_late=True))
    assert change == FeedChange(added=attrs.evolve(entry(text(2)), is_late=True))
    assert shown(feed) == ["at 1", "at 2", "at 3"]
    assert [item.is_late for item in feed.messages] == [False, True, False]


def test_what_is_older_than_the_window_changes_nothing():
    feed = fed(2, loaded=[text(5), text(6)])
    assert feed.apply(heard(text(4), is_late=True)) is None
    assert feed.apply(heard(text(5))) is None, "it is there already"
    assert feed.apply(ServerLost(address="here", reason="")) is None
    assert shown(feed) == ["at 5", "at 6"]


def test_a_retracted_message_is_taken_out_and_asks_for_the_one_that_is_now_missing():
    feed = fed(2, heard(text(3)), loaded=[text(1), text(2)])
    change = feed.apply(MessageRetracted(msg_id=text(2).msg_id, node=ADA, name="ada"))
    assert change == FeedChange(removed=entry(text(2)))
    assert shown(feed) == ["at 3"]
    assert feed.wants_load, "at 1 was pushed out and belongs into the window again"
    feed.load([entry(text(1)), entry(text(3))])
    assert shown(feed) == ["at 1", "at 3"]
    assert not feed.wants_load


def test_a_short_window_takes_nothing_from_before_what_is_missing():
    feed = fed(2, heard(text(4)), loaded=[text(2), text(3)])
    feed.apply(MessageRetracted(msg_id=text(4).msg_id, node=ADA, name="ada"))
    assert feed.apply(heard(text(1), is_late=True)) is None, "at 2 is between"
    assert shown(feed) == ["at 3"]


def test_a_message_that_is_told_of_after_its_retraction_stays_away():
    feed = fed(3, MessageRetracted(msg_id=text(1).msg_id, node=ADA, name="ada"), heard(text(1)))
    assert feed.entries == ()


def test_a_short_history_is_not_asked_for_again():
    feed = Feed(5)
    assert feed.wants_load
    feed.load([entry(text(1))])
    assert not feed.wants_load
    assert not feed.is_full
    feed.apply(MessageRetracted(msg_id=text(1).msg_id, node=ADA, name="ada"))
    assert not feed.wants_load, "there is nothing else"


def test_a_feed_that_is_never_loaded_shows_what_comes():
    feed = Feed(2)
    for ms in (1, 2, 3):
        feed.apply(heard(text(ms)))
    assert shown(feed) == ["at 2", "at 3"]


def test_another_size_keeps_the_newest_and_a_larger_one_asks_for_more():
    feed = fed(3, loaded=[text(1), text(2), text(3)])
    feed.resize(2)
    assert shown(feed) == ["at 2", "at 3"]
    assert not feed.wants_load
    feed.resize(4)
    assert feed.wants_load
    feed.load([entry(text(ms)) for ms in (1, 2, 3)])
    assert shown(feed) == ["at 1", "at 2", "at 3"]
    with pytest.raises(ValueError, match="at least one"):
        feed.resize(0)


def test_after_missed_events_what_was_retracted_meanwhile_goes():
    feed = fed(3, EventsDropped(count=2), loaded=[text(1), text(2), text(3)])
    assert feed.wants_load
    feed.load([entry(text(1)), entry(text(3))])
    assert shown(feed) == ["at 1", "at 3"]


# --- announcements ------------------------------------------------------------------------------------------------


def announcement(ms: int) -> Message:
    return message(ms, AnnouncementBody(text=f"hear at {ms}"))


def test_the_latest_announcement_is_pinned_even_when_it_left_the_window():
    feed = fed(2, heard(announcement(5)), heard(text(6)), heard(text(7)))
    assert shown(feed) == ["at 6", "at 7"]
    assert feed.pinned == entry(announcement(5))
    assert feed.apply(heard(announcement(4), is_late=True)) is None, "an older one that came later"
    assert feed.pinned == entry(announcement(5))
    change = feed.apply(heard(announcement(8)))
    assert change is not None
    assert change.is_pin_changed
    assert feed.pinned == entry(announcement(8))


def test_a_retracted_announcement_is_not_pinned_any_more():
    feed = fed(2, heard(announcement(1)), heard(announcement(5)), heard(text(6)))
    change = feed.apply(MessageRetracted(msg_id=announcement(5).msg_id, node=ADA, name="ada"))
    assert change == FeedChange(removed=entry(announcement(5)), is_pin_changed=True)
    assert feed.pinned is None
    assert feed.wants_load, "only the history knows which one was before it"
    feed.load([entry(announcement(1)), entry(text(6))], entry(announcement(1)))
    assert feed.pinned == entry(announcement(1))
    assert not feed.wants_load


# --- notices ------------------------------------------------------------------------------------------------------


def test_comings_and_goings_between_two_messages_are_one_notice():
    feed = fed(3, loaded=[text(1)])
    feed.apply(joined(1))
    feed.apply(left(2))
    change = feed.apply(NodeRenamed(node=node(3), old_name="n3", name="new"))
    before = Notice(joined=("n1",), joined_count=1, left=("n2",), left_count=1)
    after = attrs.evolve(before, renamed=(("n3", "new"),), renamed_count=1)
    assert change == FeedChange(added=after, removed=before)
    feed.apply(heard(text(2)))
    feed.apply(left(1))
    assert shown(feed) == ["at 1", after, "at 2", Notice(left=("n1",), left_count=1)]


def test_who_comes_and_goes_again_is_not_mentioned():
    feed = fed(3, joined(1), left(1), loaded=[text(1)])
    assert shown(feed) == ["at 1"]
    change = feed.apply(joined(1))
    assert change == FeedChange(added=Notice(joined=("n1",), joined_count=1))
    assert feed.apply(left(1)) == FeedChange(removed=change.added)


def test_notices_take_no_place_of_a_message():
    feed = fed(1, loaded=[text(1)])
    for number in range(500):
        feed.apply(joined(number))
    first, notice = feed.entries
    assert first == entry(text(1))
    assert isinstance(notice, Notice)
    assert notice.joined == tuple(f"n{number}" for number in range(MAX_NAMES_IN_NOTICE))
    assert notice.joined_count == 500


def test_a_notice_goes_when_the_message_before_it_leaves_the_window():
    feed = fed(2, joined(1), heard(text(1)), joined(2), heard(text(2)), joined(3), heard(text(3)))
    assert shown(feed) == ["at 2", Notice(joined=("n3",), joined_count=1), "at 3"]


def test_notices_around_a_retracted_message_become_one():
    feed = fed(3, heard(text(1)), joined(1), joined(2), heard(text(2)), left(1), left(3))
    feed.apply(MessageRetracted(msg_id=text(2).msg_id, node=ADA, name="ada"))
    assert shown(feed) == ["at 1", Notice(joined=("n2",), joined_count=1, left=("n3",), left_count=1)]
    feed.apply(MessageRetracted(msg_id=text(1).msg_id, node=ADA, name="ada"))
    assert len(feed.entries) == 1


def test_who_was_here_before_the_history_was_loaded_came_after_it():
    feed = Feed(3)
    feed.apply(joined(1))
    feed.load([entry(text(1))])
    assert shown(feed) == ["at 1", Notice(joined=("n1",), joined_count=1)]
    feed = Feed(3)
    feed.apply(joined(1))
    feed.apply(heard(text(2)))
    feed.load([entry(text(1)), entry(text(2))])
    assert shown(feed) == ["at 1", Notice(joined=("n1",), joined_count=1), "at 2"]


def test_entries_go_by_the_new_name():
    feed = fed(3, heard(announcement(2)), loaded=[text(1)])
    feed.apply(NodeRenamed(node=ADA, old_name="ada", name="lady ada"))
    feed.apply(NodeRenamed(node=BOB, old_name="bob", name="robert"))
    assert [item.name for item in feed.messages] == ["lady ada", "lady ada"]
    assert feed.pinned == feed.messages[-1]


steps = st.lists(
    st.tuples(st.sampled_from(["presence", "name"]), st.integers(0, 4), st.sampled_from(["x", "y", "z"])), max_size=40
)


def tally_of(story: list[tuple[str, int, str]], here: dict[int, bool], names: dict[int, str]) -> NoticeTally:
    """Let everything happen that `story` says, and return a tally of it."""
    tally = NoticeTally()
    for what, number, name in story:
        if what == "name":
            if not here[number] or names[number] == name:
                continue
            tally.add(NodeRenamed(node=node(number), old_name=names[number], name=name))
            names[number] = name
        else:
            event = NodeLeft if here[number] else NodeJoined
            tally.add(event(node=node(number), name=names[number]))
            here[number] = not here[number]
    return tally


@given(first=steps, second=steps, was_here=st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_notice_is_the_difference_between_before_and_after(
    first: list[tuple[str, int, str]], second: list[tuple[str, int, str]], was_here: list[bool]
):
    here, names = dict(enumerate(was_here)), dict.fromkeys(range(5), "x")
    tally = tally_of(first, here, names)
    tally.merge(tally_of(second, here, names))
    notice = tally.notice() or Notice()
    assert sorted(notice.joined) == sorted(names[n] for n in here if here[n] and not was_here[n])
    assert sorted(notice.left) == sorted(names[n] for n in here if was_here[n] and not here[n])
    renamed = [("x", names[n]) for n in here if was_here[n] and here[n] and names[n] != "x"]
    assert sorted(notice.renamed) == sorted(renamed)
    assert (notice.joined_count, notice.left_count) == (len(notice.joined), len(notice.left))
    assert notice.renamed_count == len(renamed)


def test_a_notice_counts_those_that_it_cannot_keep_apart():
    tally = NoticeTally()
    for number in range(MAX_NODES_IN_NOTICE + 10):
        tally.add(joined(number))
    for number in range(MAX_NODES_IN_NOTICE + 10):
        tally.add(left(number))
    notice = tally.notice()
    assert notice is not None
    assert notice.joined_count == 10
    assert notice.left_count <= 10


# --- everything at once -------------------------------------------------------------------------------------------


def check_bounds(feed: Feed) -> None:
    messages = feed.messages
    assert len(messages) <= feed.size
    assert len(feed.entries) <= 2 * feed.size + 1
    assert [m.key for m in messages] == sorted({m.key for m in messages})
    assert [e for e in feed.entries if isinstance(e, HistoryEntry)] == list(messages)
    for item, following in zip(feed.entries, feed.entries[1:], strict=False):
        assert isinstance(item, HistoryEntry) or isinstance(following, HistoryEntry), "two notices in a row"


def check_against(feed: Feed, history: MemoryHistory) -> None:
    """Check a feed that has heard everything."""
    entries = history.entries()
    held = plain(feed.messages)
    if not feed.wants_load:
        assert held == entries[max(0, len(entries) - feed.size) :]
        announcements = [item for item in entries if item.kind == "announcement"]
        assert (feed.pinned and feed.pinned.key) == (announcements[-1].key if announcements else None)


class Story:
    """Random things that happen in a pool, and a feed that hears of them sooner or later."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.number = 0
        self.history = MemoryHistory(item for item in (self.new_message(ms) for ms in range(self.rng.randrange(12))))
        self.feed = Feed(self.rng.randint(1, 6))
        self.now = 12
        self.gone: set[bytes] = set()

    def new_message(self, ms: int) -> Message:
        self.number += 1
        return any_message(ms, self.rng.randrange(9) + 9 * self.number)

    def happen(self) -> None:
        rng, history = self.rng, self.history
        match rng.choice(["live", "live", "live", "late", "retract", "presence", "name", "drop"]):
            case "live":
                self.now += rng.randint(0, 2)
                history.store(self.new_message(self.now))
            case "late":
                history.store(self.new_message(rng.randint(0, self.now)))
            case "retract" if history.stored:
                item = rng.choice(history.stored)
                if is_read(item):
                    self.gone.add(item.msg_id)
                    history.retract(item.msg_id)
            case "presence":
                history.events.append(rng.choice([joined, left])(rng.randrange(4)))
            case "name":
                history.events.append(NodeRenamed(node=node(1), old_name="n1", name=rng.choice("ab")))
            case "drop" if history.events and rng.random() < 0.3:
                lost = rng.randint(1, len(history.events))
                history.events[:lost] = [EventsDropped(count=lost)]
            case _:
                pass

    def hear(self) -> None:
        self.feed.apply(self.history.events.pop(0))
        check_bounds(self.feed)

    def load(self) -> None:
        entries = self.history.entries()
        announcements = [item for item in entries if item.kind == "announcement"]
        self.feed.load(entries[max(0, len(entries) - self.feed.size) :], announcements[-1] if announcements else None)
        check_bounds(self.feed)


@given(seed=st.integers(0, 2**32), length=st.integers(0, 80))
def test_a_feed_that_heard_everything_shows_the_newest_of_the_history(seed: int, length: int):
    story = Story(seed)
    rng = story.rng
    for _ in range(length):
        story.happen()
        while story.history.events and rng.random() < 0.6:
            if story.feed.wants_load and rng.random() < 0.7:
                story.load()
            story.hear()
        if rng.random() < 0.05:
            story.feed.resize(rng.randint(1, 6))
        if not story.history.events:
            check_against(story.feed, story.history)
    while story.history.events:
        story.hear()
    if story.feed.wants_load:
        story.load()
    assert not story.feed.wants_load
    check_against(story.feed, story.history)
    assert story.gone.isdisjoint(item.msg_id for item in story.feed.messages)
