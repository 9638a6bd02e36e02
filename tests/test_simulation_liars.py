"""Honest nodes among liars, in the simulator: they lose nothing, stay bounded, and blame nobody who is honest."""

from collections import Counter
from random import Random

import pytest

from poolnet.limits import MAX_INTERESTS_PER_LINK, MAX_MISSING_PER_LINK, MAX_WANTED_PER_LINK
from poolnet.protocol.mesh import MAX_LINKS
from poolnet.testing import PathConditions, SimNode, SimPool
from poolnet.testing.sim_liars import Lie

MIB = 2**20
PATHS = PathConditions(latency_s=0.02, jitter_s=0.02, loss=0.02, bandwidth_bytes_per_s=10e6)
#: The most that these tables may hold, whatever peers do.
BOUNDS = {
    "agreement.fetching.peers.listed": MAX_WANTED_PER_LINK + 1000,
    "gossip.missing.missing": MAX_LINKS * MAX_MISSING_PER_LINK,
    "mesh.links": MAX_LINKS,
    "swarm.desk.files": MAX_LINKS * MAX_INTERESTS_PER_LINK,
    "swarm.server.receivers.interests": MAX_INTERESTS_PER_LINK,
}
#: What is held against a liar; other lies cannot be told from bad luck, or are outvoted.
BLAMED = {
    Lie.ALTERED_MESSAGES: "a message that is not acceptable",
    Lie.WRONG_PIECES: "sent a piece of a file with a wrong hash",
}


class Trial:
    """Eight honest nodes and four liars that talk, and exchange a file."""

    def __init__(self, lies: bool | list[Lie], seed: int, *, rounds: int) -> None:
        self.pool = pool = SimPool(seed, 8, conditions=PATHS)
        self.honest = list(pool.nodes)
        self.liars = [pool.add_node(is_liar=lies) for _ in range(4)]
        pool.run_for(20.0)
        rng = Random(seed)
        self.file_id = pool.offer(self.honest[0], 4 * MIB)
        for node in pool.nodes[1:]:
            node.fetch(self.file_id)
        for number in range(rounds):
            pool.publish(rng.choice(pool.nodes), b"%d" % number)
            pool.run_for(1.0)
            for node in self.honest:
                self.check_memory(node)

    def check_memory(self, node: SimNode) -> None:
        sizes = node.memory_items()
        assert {name: sizes[name] for name, bound in BOUNDS.items() if sizes[name] > bound} == {}

    def blamed(self) -> Counter[str]:
        """Return what the honest ones say of liars; they say nothing of each other."""
        liars = {node.host_id for node in self.liars}
        blames = [blame for node in self.honest for blame in node.misbehaviour]
        assert [blame for blame in blames if blame.peer not in liars] == []
        return Counter(blame.reason for blame in blames)


@pytest.mark.parametrize("lie", Lie)
def test_honest_nodes_miss_nothing_among_liars(lie: Lie) -> None:
    trial = Trial([lie], seed=lie.value, rounds=4 if lie is Lie.FLOOD else 15)
    trial.pool.run_for(15.0)
    assert trial.pool.missed(trial.honest) == []
    assert all(trial.file_id in node.completed for node in trial.honest[1:])
    assert trial.blamed().keys() == ({BLAMED[lie]} if lie in BLAMED else set())


def test_honest_nodes_miss_nothing_when_a_third_lie_in_every_way() -> None:
    trial = Trial(lies=True, seed=20, rounds=6)
    for liar in trial.liars:
        liar.leave()
    assert trial.pool.time_to_agree(trial.honest, 120.0) <= 120.0
    trial.pool.run_for(20.0)
    assert trial.pool.missed(trial.honest) == []
    assert all(trial.file_id in node.completed for node in trial.honest[1:])
    assert trial.blamed()


def test_an_altered_message_costs_its_forwarder_the_link_and_not_its_author() -> None:
    trial = Trial([Lie.ALTERED_MESSAGES], seed=21, rounds=15)
    links = {node.host_id for node in trial.liars}
    blames = [blame for node in trial.honest for blame in node.misbehaviour]
    assert len(blames) > 3
    assert {blame.peer for blame in blames} <= links
    closed = sum(node.mesh.statistics().dials for node in trial.pool.nodes)
    assert closed > sum(len(node.links) for node in trial.pool.nodes) / 2  # links went down and were dialled again
