"""Credit, deadlines and rates: the small bookkeeping of links."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.errors import ProtocolError
from poolnet.net.deadlines import Deadlines
from poolnet.net.rate_meter import RateMeter
from poolnet.protocol.flow_credit import ReceiveCredit, SendCredit


@given(st.lists(st.integers(1, 400), max_size=200), st.randoms(use_true_random=False))
def test_a_sender_that_keeps_to_the_credit_never_violates_it_and_never_sticks(
    sizes: list[int], rng: random.Random
) -> None:
    """Whatever order sending, consuming and (delayed) reports come in."""
    sender, receiver = SendCredit(1000), ReceiveCredit(1000)
    under_way: list[int] = []
    reports: list[int] = []
    waiting = list(reversed(sizes))
    steps = 0
    while sender.acknowledged < sum(sizes):
        steps += 1
        assert steps < 50 * len(sizes) + 100
        if waiting and sender.has_room(waiting[-1]):
            size = waiting.pop()
            sender.take(size)
            receiver.arrive(size)
            under_way.append(size)
        if under_way and rng.random() < 0.5:
            receiver.consume(under_way.pop(0))
        if receiver.should_tell(drained=not under_way):
            reports.append(receiver.tell())
        if reports and rng.random() < 0.5:
            sender.acknowledge(reports.pop(0))
        assert sender.under_way <= 1000
    assert not waiting


def test_a_sender_over_its_limit_is_caught() -> None:
    receiver = ReceiveCredit(10)
    receiver.arrive(10)
    receiver.consume(10)
    with pytest.raises(ProtocolError):
        receiver.arrive(1)  # consumed, but the sender was not told
    receiver.tell()
    receiver.arrive(9)


@pytest.mark.parametrize("total", [4, 11])
def test_a_report_that_cannot_be_true_is_caught(total: int) -> None:
    sender = SendCredit(100)
    sender.take(10)
    sender.acknowledge(5)
    with pytest.raises(ProtocolError):
        sender.acknowledge(total)


def test_small_reports_wait_until_there_is_nothing_left_to_do() -> None:
    receiver = ReceiveCredit(100)
    receiver.arrive(50)
    assert not receiver.should_tell(drained=True)
    receiver.consume(10)
    assert not receiver.should_tell(drained=False)
    assert receiver.should_tell(drained=True)
    receiver.consume(15)
    assert receiver.should_tell(drained=False)


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 50)), max_size=60))
def test_deadlines_come_due_as_in_a_plain_dict(changes: list[tuple[int, int | None]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, int] = {}
    for now, (item, when) in enumerate(changes):
        deadlines.set(item, when)
        if when is None:
            model.pop(item, None)
        else:
            model[item] = when
        assert deadlines.next() == min(model.values(), default=math.inf)
        due = {key for key, value in model.items() if value <= now}
        assert set(deadlines.due(now)) == due
        for key in due:
            del model[key]


def test_a_steady_flow_is_measured_and_forgotten() -> None:
    meter = RateMeter(0.0)
    for step in range(1, 1001):
        meter.add(1000, step / 100)
    assert meter.total == 1_000_000
    assert meter.rate(10.0) == pytest.approx(100_000, rel=0.05)
    assert meter.rate(20.0) < 1000
