"""A link between members: messages that come before their time, and while those are dealt with."""

from typing import Any, cast

import pytest
import trio
from pool_builder import Pool
from trio.testing import MockClock, wait_all_tasks_blocked

from poolnet.errors import ProtocolError
from poolnet.limits import MAX_QUEUED_FRAMES
from poolnet.pool.member_link import MemberLink
from poolnet.wire.pool_frames import Gossip

pytestmark = pytest.mark.timeout(60)


class SlowFlow:
    """Takes messages when a test lets it."""

    def __init__(self) -> None:
        self.taken: list[Gossip] = []
        self.goes_on = trio.Event()

    def link_up(self, link: object) -> None:
        pass

    async def handle_frame(self, link: object, frame: Gossip) -> None:
        await self.goes_on.wait()
        self.taken.append(frame)


def made(flow: SlowFlow) -> MemberLink:
    return MemberLink(
        cast("Any", None),
        membership=Pool().membership,
        statements=cast("Any", None),
        flow=cast("Any", flow),
        files=cast("Any", None),
    )


FRAMES = [Gossip(hops=1, message=number.to_bytes(2, "big")) for number in range(2 * MAX_QUEUED_FRAMES)]


async def test_messages_wait_while_those_that_came_early_are_dealt_with(autojump_clock: MockClock) -> None:
    flow = SlowFlow()
    member = made(flow)

    async def receive() -> None:
        for frame in FRAMES[3:]:
            await member._talk(frame)

    for frame in FRAMES[:3]:
        await member._talk(frame)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member._begin_talk)
        await wait_all_tasks_blocked()
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert flow.taken == []
        flow.goes_on.set()
    assert flow.taken == FRAMES


async def test_the_patience_with_who_talks_without_taking_statements_ends(autojump_clock: MockClock) -> None:
    member = made(SlowFlow())
    for frame in FRAMES[:MAX_QUEUED_FRAMES]:
        await member._talk(frame)
    with pytest.raises(ProtocolError, match="statements first"):
        await member._talk(FRAMES[-1])
