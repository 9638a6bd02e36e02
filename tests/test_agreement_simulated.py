"""Catching up in whole simulated pools, where neighbours say nothing when histories are compared."""

import pytest

from poolnet.ids import DeviceId
from poolnet.limits import RECONCILE_PATIENCE_S
from poolnet.testing import PathConditions, SimNode, SimPool
from poolnet.wire import pool_frames as frames


class Silence:
    """Lets nodes say nothing about histories, or no longer; they gossip as before."""

    def __init__(self, pool: SimPool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mutes: set[SimNode] = set()
        real = SimNode.received

        def received(node: SimNode, peer: DeviceId, frame: object) -> None:
            is_about_history = isinstance(frame, frames.OpenComparison | frames.Compare | frames.WantMessages)
            if not (node in self.mutes and is_about_history):
                real(node, peer, frame)

        monkeypatch.setattr(SimNode, "received", received)


@pytest.mark.parametrize("seed", range(6))
def test_who_comes_back_among_silent_neighbours_catches_up_with_the_first_that_answers(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SimPool(seed, 7, conditions=PathConditions(latency_s=0.03, jitter_s=0.02, loss=0.02))  # all are linked
    silence = Silence(pool, monkeypatch)
    pool.run_for(20.0)
    back, *others = pool.nodes
    back.leave()
    for number in range(200):
        pool.publish(others[number % 6], b"%d" % number)
        pool.run_for(0.2)
    silence.mutes.update(others[:4])
    for visit in range(3):
        back.join()
        took_s = pool.time_to_agree([back, *others[4:]], timeout_s=60.0)
        assert took_s < 4 * RECONCILE_PATIENCE_S + 4.0
        assert back.agreement.statistics().wanted == 0
        assert back.misbehaviour == []
        back.leave()
        pool.publish(others[5], b"while it was away, %d" % visit)
        pool.run_for(20.0)


def test_what_many_neighbours_have_is_fetched_about_once_and_at_no_more_than_a_little_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = {}
    for is_mute in (False, True):
        pool = SimPool(3, 7)
        silence = Silence(pool, monkeypatch)
        pool.run_for(20.0)
        back, *others = pool.nodes
        back.leave()
        for number in range(300):
            pool.publish(others[number % 6], b"%d" % number)
            pool.run_for(0.1)
        silence.mutes.update(others[:2] if is_mute else ())
        before = sum(pool.network.bytes_sent.values())
        back.join()
        pool.run_for(30.0)
        assert pool.missed([back]) == []
        assert back.fetched_twice <= 30
        sent[is_mute] = sum(pool.network.bytes_sent.values()) - before
    assert sent[True] < 1.5 * sent[False]
