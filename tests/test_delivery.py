"""The book of own messages that are here alone: it believes only what was consumed, or compared."""

from typing import cast

import pytest
import trio
from made_messages import make_message
from trio.testing import MockClock, wait_all_tasks_blocked

from poolnet.errors import LinkClosed
from poolnet.ids import DeviceId
from poolnet.net.link import Link
from poolnet.pool.delivery import DeliveryBook
from poolnet.wire.claims import HIGHEST

pytestmark = pytest.mark.timeout(60)

PEER = DeviceId(bytes(32))
FIRST, SECOND, THIRD = (make_message(number) for number in (1, 2, 3))


class FakeLink:
    """A link to `PEER` that a test closes, or whose frames it consumes."""

    def __init__(self) -> None:
        self.peer = PEER
        self._consumed = trio.Event()
        self._is_closed = False

    @property
    def as_link(self) -> Link:
        return cast("Link", self)

    async def flushed(self) -> None:
        await self._consumed.wait()
        if self._is_closed:
            raise LinkClosed("closed")
        self._consumed = trio.Event()

    def consume(self) -> None:
        self._consumed.set()

    def close(self) -> None:
        self._is_closed = True
        self._consumed.set()


async def is_delivered(book: DeliveryBook) -> bool:
    with trio.move_on_after(1):
        await book.delivered()
        return True
    return False


async def test_what_a_neighbour_has_consumed_is_delivered(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        book, link = DeliveryBook(nursery), FakeLink()
        assert await is_delivered(book)
        book.add(FIRST)
        assert not await is_delivered(book)
        book.sent(link.as_link, FIRST.msg_id)
        assert not await is_delivered(book)
        link.consume()
        assert await is_delivered(book)


async def test_what_is_sent_while_another_frame_is_on_its_way_waits_for_its_own(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        book, link = DeliveryBook(nursery), FakeLink()
        for message in (FIRST, SECOND):
            book.add(message)
            book.sent(link.as_link, message.msg_id)
            await wait_all_tasks_blocked()
        link.consume()
        await wait_all_tasks_blocked()
        assert book.unconfirmed() == {SECOND.msg_id}
        link.consume()
        assert await is_delivered(book)


async def test_a_link_that_takes_the_place_of_another_confirms_what_was_sent_over_it(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        book, old, new = DeliveryBook(nursery), FakeLink(), FakeLink()
        book.add(FIRST)
        book.sent(old.as_link, FIRST.msg_id)
        await wait_all_tasks_blocked()
        book.add(SECOND)
        book.sent(new.as_link, SECOND.msg_id)
        old.close()
        await wait_all_tasks_blocked()
        new.consume()
        await wait_all_tasks_blocked()
        assert book.unconfirmed() == {FIRST.msg_id}


async def test_whoever_waits_for_a_message_that_is_taken_back_waits_no_more(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        book = DeliveryBook(nursery)
        book.add(FIRST)
        nursery.start_soon(book.delivered)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        book.forget(FIRST.msg_id)
    assert trio.current_time() == began


async def test_equal_histories_confirm_what_was_compared_and_nothing_that_came_later(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        book = DeliveryBook(nursery)
        book.add(FIRST)
        book.add(SECOND)
        compared = book.unconfirmed()
        book.add(THIRD)
        book.agreed(SECOND.key, compared)
        assert book.unconfirmed() == {SECOND.msg_id, THIRD.msg_id}
        book.agreed(HIGHEST, compared)
        assert book.unconfirmed() == {THIRD.msg_id}
