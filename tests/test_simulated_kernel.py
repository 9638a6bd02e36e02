"""The simulator itself: virtual time that stands still is a fault, and so is a socket that was closed."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from poolnet.testing import memory_udp, sim_network
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.testing.sim_network import SimNetwork


def test_an_action_that_brings_about_itself_for_ever_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_network, "_MAX_ACTIONS_AT_ONCE", 100)
    network = SimNetwork(1)
    calls: list[float] = []

    def again() -> None:
        calls.append(network.now)
        network.call_later(0.0, again)

    network.call_at(3.0, again)
    network.run_until(2.0)
    assert calls == []
    with pytest.raises(RuntimeError, match=r"stands still at 3\.0"):
        network.run_until(5.0)
    assert len(calls) == 101


def test_many_actions_at_one_moment_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_network, "_MAX_ACTIONS_AT_ONCE", 100)
    network = SimNetwork(1)
    for moment in (1.0, 2.0, 3.0):
        for _ in range(100):
            network.call_at(moment, lambda: None)
    network.run_until(5.0)
    assert network.now == 5.0


async def test_who_waits_for_a_socket_that_is_closed_is_told(autojump_clock: object) -> None:
    one = MemoryNetwork(seed=1).open_socket(("10.0.0.1", 0))
    told: list[bool] = []

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await one.wait_readable()
        told.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        one.close()
    assert told == [True]


async def test_what_finds_no_room_in_the_socket_is_lost(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_udp, "SOCKET_BUFFER_DATAGRAMS", 3)
    network = MemoryNetwork(seed=1)
    one, other = network.open_socket(("10.0.0.1", 0)), network.open_socket(("10.0.0.2", 7))
    one.send_batch([(b"%d" % number, other.address) for number in range(5)])
    await trio.sleep(1)
    assert len(other.receive_batch()) == 3
