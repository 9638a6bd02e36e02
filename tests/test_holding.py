"""Messages from clocks that are ahead."""

import pytest

from poolnet.clock import HybridClock, make_hlc
from poolnet.identity.authorship import sign_message
from poolnet.identity.keys import DeviceKey
from poolnet.ids import PoolId
from poolnet.limits import MAX_CLOCK_AHEAD_S, MAX_HELD_MESSAGES
from poolnet.protocol.holding import HeldMessages
from poolnet.wire.bodies import TextBody
from poolnet.wire.message import Message

NOW_MS = 1_700_000_000_000
AHEAD_MS = int(MAX_CLOCK_AHEAD_S * 1000)
KEY = DeviceKey.from_seed(bytes(32))


def message(ms: int, counter: int = 0) -> Message:
    return sign_message(KEY, pool_id=PoolId(bytes(32)), hlc=make_hlc(ms, counter), body=TextBody(text="hello"))


def test_a_message_a_little_ahead_is_taken_at_once_and_moves_the_clock() -> None:
    clock = HybridClock()
    held = HeldMessages(clock)
    early = message(NOW_MS + AHEAD_MS)
    assert held.admit(early, NOW_MS)
    assert clock.tick(NOW_MS) > early.content.hlc


def test_a_message_far_ahead_is_released_when_its_time_comes_in_order() -> None:
    clock = HybridClock()
    held = HeldMessages(clock)
    later, sooner = message(NOW_MS + AHEAD_MS + 9000), message(NOW_MS + AHEAD_MS + 4000)
    assert not held.admit(later, NOW_MS)
    assert not held.admit(sooner, NOW_MS)
    assert held.wait_s(NOW_MS) == pytest.approx(4.0)
    assert held.release(NOW_MS + 3999) == []
    assert held.release(NOW_MS + 4000) == [sooner]
    assert clock.tick(NOW_MS) > sooner.content.hlc
    assert held.release(NOW_MS + 9000) == [later]
    assert held.wait_s(NOW_MS) is None


def test_the_correction_of_our_own_clock_counts() -> None:
    clock = HybridClock()
    clock.offset_ms = 3600_000  # we are an hour behind
    assert HeldMessages(clock).admit(message(NOW_MS + 3600_000), NOW_MS)


def test_the_number_of_held_messages_is_bounded() -> None:
    held = HeldMessages(HybridClock())
    for counter in range(MAX_HELD_MESSAGES + 5):
        assert not held.admit(message(NOW_MS + 10 * AHEAD_MS, counter), NOW_MS)
    assert (len(held), held.dropped) == (MAX_HELD_MESSAGES, 5)
