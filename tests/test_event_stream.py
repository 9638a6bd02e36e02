"""EventStream: publishing never waits, and who lags is told what is missing."""

import pytest
import trio
import trio.testing

from poolnet.event_stream import EventStream
from poolnet.events import EventsDropped


async def test_every_subscriber_gets_every_event_in_order() -> None:
    stream = EventStream[int]()
    async with stream.subscribe() as first, stream.subscribe() as second:
        for number in range(5):
            stream.publish(number)
        assert [await anext(first) for _ in range(5)] == list(range(5))
        assert [await anext(second) for _ in range(5)] == list(range(5))
    assert stream.statistics().subscribers == 0


async def test_a_waiting_subscriber_is_woken() -> None:
    stream = EventStream[int]()
    got = []

    async def read_two() -> None:
        async with stream.subscribe() as events:
            got.append(await anext(events))
            got.append(await anext(events))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_two)
        for number in (1, 2):
            await trio.testing.wait_all_tasks_blocked()
            stream.publish(number)
    assert got == [1, 2]


async def test_a_slow_subscriber_is_told_how_much_is_missing_where_it_is_missing() -> None:
    stream = EventStream[int](max_queued=3)
    async with stream.subscribe() as events:
        for number in range(5):
            stream.publish(number)
        assert [await anext(events) for _ in range(2)] == [0, 1]
        stream.publish(5)
        assert [await anext(events) for _ in range(3)] == [2, EventsDropped(count=2), 5]
        for number in range(6, 10):
            stream.publish(number)
        assert [await anext(events) for _ in range(4)] == [6, 7, 8, EventsDropped(count=1)]
    statistics = stream.statistics()
    assert (statistics.published, statistics.dropped) == (10, 3)
    assert statistics.peak_queued <= 4


async def test_closing_ends_subscriptions_after_what_is_queued() -> None:
    stream = EventStream[int]()
    async with stream.subscribe() as events:
        stream.publish(1)
        stream.close()
        stream.publish(2)
        assert [event async for event in events] == [1]
    async with stream.subscribe() as events:
        assert [event async for event in events] == []


async def test_cancelling_a_reader_loses_no_event() -> None:
    stream = EventStream[int]()
    async with stream.subscribe() as events:
        stream.publish(1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(events)
        assert scope.cancelled_caught
        assert await anext(events) == 1


async def test_an_error_in_a_subscriber_ends_only_its_subscription() -> None:
    stream = EventStream[int]()
    with pytest.raises(KeyError):
        async with stream.subscribe():
            raise KeyError
    stream.publish(1)
    assert stream.statistics().subscribers == 0


async def test_what_happened_before_anybody_listened_is_kept_for_the_first_who_does() -> None:
    stream = EventStream[int](keep_for_first=True, max_queued=2)
    assert stream.statistics().subscribers == 0
    for number in range(4):
        stream.publish(number)
    async with stream.subscribe() as first, stream.subscribe() as second:
        stream.publish(4)
        assert [await anext(first) for _ in range(3)] == [0, 1, EventsDropped(count=3)]
        stream.publish(5)
        assert await anext(first) == 5
        assert [await anext(second), await anext(second)] == [4, 5]
        assert stream.statistics().subscribers == 2


async def test_who_has_much_to_tell_waits_for_those_who_read_and_for_nobody_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream = EventStream[int](keep_for_first=True, max_queued=8)
    heard: list[int | EventsDropped] = []

    async def read() -> None:
        async with stream.subscribe() as events:
            while len(heard) < 100:
                heard.append(await anext(events))
                await trio.sleep(0.5)

    async def tell_slowly() -> None:
        for number in range(100):
            await stream.room()
            stream.publish(number)

    for _ in range(4):
        stream.publish(-1)
    await stream.room()  # nobody has begun to read
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(tell_slowly)
    assert heard == [-1] * 4 + list(range(96))
    assert trio.current_time() < 60
    async with stream.subscribe() as events:
        stream.publish(1)
        await anext(events)
        for _ in range(8):
            stream.publish(2)
        before = trio.current_time()
        await stream.room()
        await stream.room()
        assert 0 < trio.current_time() - before < 2, "it waited once, then it knew that nobody reads any more"
    await stream.room()
