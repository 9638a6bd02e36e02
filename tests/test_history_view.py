"""History: pages of what is past, while messages come and go, against a plain list."""

import random
from collections.abc import Callable, Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from views_world import (
    ADA,
    BOB_KEY,
    MemoryHistory,
    any_message,
    event_of,
    is_read,
    message,
    name_of,
    plain,
    text,
    was_admin,
)

from poolnet.clock import hlc_ms, make_hlc
from poolnet.errors import UnknownMessage
from poolnet.events import EventsDropped, MessageRetracted, NodeRenamed, PoolEvent
from poolnet.ids import MsgId
from poolnet.limits import MAX_HEARD_WHILE_READING, MAX_HISTORY_PAGES, MIN_FEED_OVERLAP
from poolnet.views.entries import HistoryEntry, entry_of
from poolnet.views.feed import Feed, FeedChange
from poolnet.views.history import History
from poolnet.wire.bodies import AnnouncementBody, AppBody, ProfileBody
from poolnet.wire.message import Message


def texts(count: int) -> list[Message]:
    return [text(ms) for ms in range(count)]


def shown(view: History) -> list[int]:
    return [entry.unix_ms for entry in view.entries]


def heard(item: Message, *, is_late: bool = False) -> PoolEvent:
    event = event_of(item, is_late=is_late)
    assert event is not None
    return event


def retraction(item: Message) -> MessageRetracted:
    return MessageRetracted(msg_id=item.msg_id, node=ADA, name="ada")


def feed_of(messages: Sequence[Message], size: int) -> Feed:
    feed = Feed(size)
    feed.load([entry_of(item, name_of) for item in messages[-size:]])
    return feed


async def opened(source: MemoryHistory, at: MsgId | int, page_size: int) -> History:
    view = History(source, was_admin=was_admin, name_of=name_of)
    await view.open_at(at, page_size)
    return view


# --- opening and paging -------------------------------------------------------------------------------------------


async def test_it_opens_with_a_message_in_the_middle():
    items = texts(30)
    view = await opened(MemoryHistory(items), items[10].msg_id, 6)
    assert shown(view) == [8, 9, 10, 11, 12, 13]
    assert not view.is_at_start
    assert not view.is_at_end
    with pytest.raises(UnknownMessage):
        await view.open_at(MsgId(bytes(32)), 6)
    assert shown(view) == [8, 9, 10, 11, 12, 13], "nothing changed"


async def test_it_opens_at_a_time():
    source = MemoryHistory(texts(30))
    view = await opened(source, 10, 6)
    assert shown(view) == [7, 8, 9, 10, 11, 12]
    await view.open_at(-5, 6)
    assert shown(view) == [0, 1, 2]
    assert view.is_at_start
    await view.open_at(2**60, 6)
    assert shown(view) == [27, 28, 29]
    assert view.is_at_end


async def test_an_empty_history_has_a_beginning_and_an_end():
    view = await opened(MemoryHistory(), 10, 3)
    assert view.is_at_start
    assert view.is_at_end
    assert await view.older() == 0
    assert await view.newer() == 0
    await view.refresh()
    assert view.apply(heard(text(4))) is not None
    assert shown(view) == [4]


async def test_it_keeps_three_pages_and_comes_back_to_what_it_dropped():
    view = await opened(MemoryHistory(texts(40)), 20, 4)
    assert shown(view) == [18, 19, 20, 21]
    assert await view.older() == 4
    assert await view.older() == 4
    assert shown(view) == list(range(10, 22))
    assert await view.older() == 4
    assert shown(view) == list(range(6, 18)), "the newest page is dropped"
    assert await view.newer() == 4
    assert shown(view) == list(range(10, 22)), "the oldest page is dropped"


async def test_what_people_do_not_read_takes_no_place_in_a_page():
    moves = [message(ms, AppBody(name="chess.move", data=bytes(3))) for ms in range(10, 700)]
    names = [message(5, ProfileBody(name="ada"))]
    view = await opened(MemoryHistory([text(1), text(2), *names, *moves, text(800)]), 800, 2)
    assert shown(view) == [2, 800]
    assert await view.older() == 1
    assert shown(view) == [1, 2, 800]


async def test_an_announcement_by_somebody_who_is_no_admin_is_not_shown():
    fake = message(2, AnnouncementBody(text="pay me"), author_key=BOB_KEY)
    real = message(3, AnnouncementBody(text="welcome"))
    view = await opened(MemoryHistory([text(1), fake, real]), 0, 8)
    assert [entry.text for entry in view.entries] == ["at 1", "welcome"]


async def test_scrolling_back_shows_what_only_neighbours_had():
    items = texts(20)
    source = MemoryHistory(items[10:])
    source.remote = items[:10]
    view = await opened(source, items[10].msg_id, 4)
    assert shown(view) == [10, 11, 12]
    assert view.is_at_start
    assert await view.older() == 4
    assert shown(view) == list(range(6, 13))
    assert await view.older() == 4
    assert await view.older() == 2
    assert await view.older() == 0
    assert view.is_at_start
    assert shown(view) == list(range(12))


async def test_scrolling_back_from_before_the_beginning_fetches_what_is_before_that():
    items = texts(20)
    source = MemoryHistory(items[10:])
    source.remote = items[:10]
    view = await opened(source, 5, 1)
    assert shown(view) == []
    assert await view.older() == 1
    assert shown(view) == [4]


# --- events -------------------------------------------------------------------------------------------------------


async def test_late_messages_are_put_in_their_places_and_others_are_not():
    items = texts(20)
    view = await opened(MemoryHistory(items), items[10].msg_id, 6)  # 8 to 13
    inside = message(10, b"x", kind="from the future", count=7)
    change = view.apply(heard(inside, is_late=True))
    assert change is not None
    assert isinstance(change.added, HistoryEntry)
    assert change.added.is_late
    assert shown(view) == [8, 9, 10, 10, 11, 12, 13]
    assert view.apply(heard(message(7, b"x", kind="from the future"))) is None
    assert view.apply(heard(text(25))) is None
    assert view.apply(heard(inside)) is None, "it is there already"


async def test_live_messages_follow_at_the_end():
    items = texts(6)
    view = await opened(MemoryHistory(items), 6, 2)
    assert view.is_at_end
    for ms in range(10, 20):
        view.apply(heard(text(ms)))
    assert shown(view) == [5, 10, 11, 12, 13, 14], "three pages; what is on the screen stays"
    assert not view.is_at_end


async def test_retracted_messages_are_taken_out_and_stay_out():
    items = texts(10)
    view = await opened(MemoryHistory(items), 5, 4)
    assert view.apply(retraction(items[4])) == FeedChange(removed=entry_of(items[4], name_of))
    assert view.apply(retraction(items[4])) is None
    assert view.apply(heard(items[4], is_late=True)) is None
    assert shown(view) == [3, 5, 6]


async def test_entries_go_by_the_new_name():
    view = await opened(MemoryHistory(texts(3)), 1, 4)
    assert view.apply(NodeRenamed(node=ADA, old_name="ada", name="lady ada")) == FeedChange()
    assert {entry.name for entry in view.entries} == {"lady ada"}


async def test_names_are_those_in_the_history_if_nobody_tells_others():
    items = [
        text(1),
        message(2, ProfileBody(name="a")),
        message(3, ProfileBody(name="ada")),
        text(4, author_key=BOB_KEY),
    ]
    view = History(MemoryHistory(items))
    await view.open_at(0, 8)
    assert [entry.name for entry in view.entries] == [
        "ada",
        entry_of(items[3], lambda node: "").name or view.entries[1].name,
    ]
    assert len(view.entries[1].name) == 8, "the beginning of an id"


async def test_missed_events_are_made_good_by_reading_again():
    items = texts(20)
    source = MemoryHistory(items)
    view = await opened(source, 10, 4)  # 8 to 11
    source.retract(items[9].msg_id)
    source.store(message(10, b"x", kind="from the future"))
    view.apply(EventsDropped(count=2))
    assert view.is_stale
    await view.refresh()
    assert not view.is_stale
    assert shown(view) == [8, 10, 10, 11]


# --- at the same time ---------------------------------------------------------------------------------------------


class AtCall:
    """Does something at the n-th place where a source waits: `older` waits for its neighbours, then around its look."""

    def __init__(self, source: MemoryHistory, number: int, act: Callable[[], None]) -> None:
        self.calls = 0
        self._number = number
        self._act = act
        source.meanwhile = self

    async def __call__(self) -> None:
        await trio.lowlevel.checkpoint()
        self.calls += 1
        if self.calls == self._number:
            self._act()


@pytest.mark.parametrize("place", [1, 2, 3])
async def test_a_message_that_is_stored_while_a_page_is_read_is_not_missed(place: int):
    source = MemoryHistory(texts(20))
    view = await opened(source, 15, 4)  # 13 to 16
    late = message(11, b"x", kind="from the future")

    def store_late() -> None:
        source.store(late)
        view.apply(source.events.pop())

    AtCall(source, place, store_late)
    await view.older()
    assert [ms for ms in shown(view) if ms >= 10] == [10, 11, 11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("place", [1, 2, 3])
async def test_a_message_that_is_retracted_while_a_page_is_read_is_not_shown(place: int):
    items = texts(20)
    source = MemoryHistory(items)
    view = await opened(source, 15, 4)

    def retract() -> None:
        source.retract(items[11].msg_id)
        view.apply(source.events.pop())

    AtCall(source, place, retract)
    await view.older()
    assert [ms for ms in shown(view) if ms >= 9] == [9, 10, 12, 13, 14, 15, 16]


async def test_a_page_that_comes_after_too_much_was_heard_is_read_again():
    source = MemoryHistory(texts(5))
    view = await opened(source, 5, 4)

    def flood() -> None:
        for number in range(MAX_HEARD_WHILE_READING + 1):
            item = message(2, number.to_bytes(4, "big"), kind="from the future")
            source.stored.append(item)
            view.apply(heard(item, is_late=True))
        source.stored.sort(key=lambda stored: stored.key)

    hook = AtCall(source, 3, flood)
    assert await view.older() == 4
    assert plain(view.entries) == source.entries()[-len(view.entries) :]
    assert hook.calls > 3


async def test_a_page_is_read_again_if_events_were_missed_meanwhile():
    source = MemoryHistory(texts(20))
    view = await opened(source, 15, 4)  # 13 to 16
    late = message(11, b"x", kind="from the future")

    def store_unheard() -> None:
        source.store(late)
        source.events.clear()
        view.apply(EventsDropped(count=1))

    AtCall(source, 3, store_unheard)
    assert await view.older() == 4
    assert shown(view) == [10, 11, 11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("move", ["older", "newer", "refresh", "open_at"])
async def test_a_move_that_is_cancelled_changes_nothing(move: str):
    source = MemoryHistory(texts(30))
    view = await opened(source, 15, 4)
    before = (view.entries, view.is_at_start, view.is_at_end)
    steps = 0
    while True:  # once at each place where it waits
        with trio.CancelScope() as scope:
            left = steps

            async def meanwhile(scope: trio.CancelScope = scope) -> None:
                nonlocal left
                if left == 0:
                    scope.cancel()
                left -= 1
                await trio.lowlevel.checkpoint()

            source.meanwhile = meanwhile
            await (view.open_at(3, 4) if move == "open_at" else getattr(view, move)())
        if not scope.cancelled_caught:
            break
        assert (view.entries, view.is_at_start, view.is_at_end) == before
        steps += 1
    assert steps >= 2


async def test_latest_has_the_last_word_over_a_page_that_is_being_read():
    source = MemoryHistory(texts(30))
    for move in ("older", "newer", "refresh", "open_at"):
        source.meanwhile = trio.lowlevel.checkpoint
        view = await opened(source, 15, 4)

        async def leave(view: History = view) -> None:
            view.latest()

        source.meanwhile = leave
        await (view.open_at(3, 4) if move == "open_at" else getattr(view, move)())
        assert not view.is_open
        assert view.entries == ()
        assert await view.older() == await view.newer() == 0


# --- back to the feed ---------------------------------------------------------------------------------------------


async def test_it_has_met_the_feed_when_enough_of_both_is_the_same():
    items = texts(60)
    feed = feed_of(items, 20)  # from 40 on
    view = await opened(MemoryHistory(items), 20, 8)  # 16 to 23
    assert not view.has_met(feed)
    await view.newer()
    await view.newer()  # up to 39
    assert shown(view)[-1] == 39
    assert not view.has_met(feed)
    view = await opened(MemoryHistory(items), 40, 2 * (MIN_FEED_OVERLAP - 1))
    assert not view.has_met(feed), "not yet enough"
    view = await opened(MemoryHistory(items), 40, 2 * MIN_FEED_OVERLAP)
    assert view.has_met(feed)
    view.latest()
    assert not view.is_open
    assert not view.has_met(feed)


async def test_it_has_met_a_feed_that_is_shorter_than_that():
    items = texts(3)
    feed = feed_of(items, 2)
    view = await opened(MemoryHistory(items), 0, 2)
    assert shown(view) == [0]
    assert not view.has_met(feed)
    await view.newer()
    assert view.has_met(feed)
    assert (await opened(MemoryHistory(), 0, 2)).has_met(Feed(2)), "both are empty"


# --- everything at once -------------------------------------------------------------------------------------------


class Story:
    """Random things that happen in a pool while a view is paged through."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.number = 0
        first = sorted(self.rng.choices(range(200), k=self.rng.randrange(60)))
        items = sorted((self.new_message(ms) for ms in first), key=lambda item: item.key)
        split = self.rng.randint(0, len(items))
        self.source = MemoryHistory(items[split:])
        self.source.remote = items[:split]
        self.source.meanwhile = self.happen
        self.view = History(self.source, was_admin=lambda device, hlc: True, name_of=name_of)
        self.gone: set[MsgId] = set()
        self.to_come = 100  # or a view of small pages never gets to the end

    def new_message(self, ms: int) -> Message:
        self.number += 1
        return any_message(ms, self.rng.randrange(9) + 9 * self.number)

    async def happen(self) -> None:
        await trio.lowlevel.checkpoint()
        rng, source = self.rng, self.source
        self.to_come -= 1
        if self.to_come > 0 and rng.random() < 0.4:  # what is older than all that is here comes by being fetched only
            lowest = max((hlc_ms(item.content.hlc) + 1 for item in source.remote), default=0)
            source.store(self.new_message(rng.randrange(lowest, 220)))
        if rng.random() < 0.2 and source.stored and is_read(item := rng.choice(source.stored)):
            source.retract(item.msg_id)
            self.gone.add(item.msg_id)
        while source.events and rng.random() < 0.5:
            self.hear()

    def hear(self) -> None:
        self.view.apply(self.source.events.pop(0))
        assert len(self.view.entries) <= MAX_HISTORY_PAGES * max(self.view._page_size, 1)

    def check(self) -> None:
        """Let the view hear everything, and compare it with what lies between its ends."""
        while self.source.events:
            self.hear()
        held = plain(self.view.entries)
        keys = [entry.key for entry in held]
        assert keys == sorted(set(keys))
        everything = self.source.entries()
        lower, upper = self.view._lower, self.view._upper
        inside = [e for e in everything if (lower is None or e.key >= lower) and (upper is None or e.key < upper)]
        assert held == (inside if self.view.is_open else [])


@given(seed=st.integers(0, 2**32), page_size=st.integers(1, 7))
def test_paging_through_visits_every_message_once_while_others_come_and_go(seed: int, page_size: int):
    async def page_through() -> None:
        story = Story(seed)
        view = story.view
        start_ms = story.rng.randrange(200)
        opened_at = (make_hlc(start_ms), b"")
        # what only neighbours have is fetched going back, from where it was opened
        steady = [*story.source.stored, *(item for item in story.source.remote if item.key < opened_at)]
        await view.open_at(start_ms, page_size)
        story.check()
        visited: set[MsgId] = set()
        for move, is_done in (
            # a message that is retracted as soon as it was fetched looks like the beginning
            (view.older, lambda: view.is_at_start and not any(item.key < opened_at for item in story.source.remote)),
            (view.newer, lambda: view.is_at_end),
        ):
            for _ in range(1000):
                visited |= {entry.msg_id for entry in view.entries}
                added = await move()
                story.check()
                if added == 0 and is_done():
                    break
            else:
                raise AssertionError("it goes on for ever")
        visited |= {entry.msg_id for entry in view.entries}
        assert {item.msg_id for item in steady if is_read(item)} - story.gone <= visited
        assert story.gone.isdisjoint(entry.msg_id for entry in view.entries)

    trio.run(page_through)


@given(seed=st.integers(0, 2**32), page_size=st.integers(1, 7), length=st.integers(0, 25))
def test_a_view_always_holds_all_between_its_ends(seed: int, page_size: int, length: int):
    async def wander() -> None:
        story = Story(seed)
        view, source, rng = story.view, story.source, story.rng
        for _ in range(length):
            match rng.choice(["open", "older", "older", "newer", "newer", "refresh", "latest", "drop"]):
                case "open":
                    await view.open_at(rng.randrange(220), page_size)
                case "older":
                    await view.older()
                case "newer":
                    await view.newer()
                case "refresh":
                    await view.refresh()
                case "latest":
                    view.latest()
                case "drop" if source.events:
                    lost = rng.randint(1, len(source.events))
                    source.events[:lost] = [EventsDropped(count=lost)]
                case _:
                    pass
            while view.is_stale:
                await view.refresh()
            if not any(isinstance(event, EventsDropped) for event in source.events):
                story.check()

    trio.run(wander)


async def test_two_moves_at_once_follow_each_other():
    view = await opened(MemoryHistory(texts(40)), 20, 4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(view.older)
        nursery.start_soon(view.older)
    assert shown(view) == list(range(10, 22))
    assert view.entries[0].key[0] == make_hlc(10)
