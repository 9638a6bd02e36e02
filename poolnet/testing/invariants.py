"""What must hold in a simulated pool: some of it at every moment, some of it once all is mended and quiet.

A check is given the run and returns what is wrong, a sentence each; nothing if it holds. Nothing is asked of liars.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from poolnet.ids import FileId
from poolnet.limits import FAULTS_PER_SHUNNING, MIN_COMPLAINTS, MIN_SHUN_S
from poolnet.protocol.hash_tree import shape_of
from poolnet.protocol.mesh import MAX_LINKS
from poolnet.ranges import RangeSet
from poolnet.server.complaints import Verdict
from poolnet.testing.memory_limits import limit_of
from poolnet.testing.sim_node import SimNode

if TYPE_CHECKING:
    from poolnet.testing.scenario_run import ScenarioRun

Check = Callable[["ScenarioRun"], Iterator[str]]

#: How often it is looked at that memory is bounded, in seconds: it takes a while.
_MEMORY_INTERVAL_S = 30
#: Links that everyone keeps to others, where there are so many.
MIN_LINKS = 2


def nothing_acknowledged_is_lost(run: "ScenarioRun") -> Iterator[str]:
    """Whoever said something and was told that it is safe has it, whatever happened to the node since."""
    for node in run.honest():
        for msg_id in sorted(node.acknowledged - node.history.keys()):
            yield f"{run.name_of(node.host_id)} has lost its own message {msg_id.hex()[:8]}"


def what_is_complete_is_whole(run: "ScenarioRun") -> Iterator[str]:
    """Of a file that was told to be complete every piece is there, whatever happened to the node since."""
    for node in run.honest():
        for file_id in node.completed:
            if not _is_whole(run, node, file_id):
                yield f"{run.name_of(node.host_id)} lacks pieces of the complete file {file_id.hex()[:8]}"


def nobody_honest_is_blamed(run: "ScenarioRun") -> Iterator[str]:
    """No honest node takes another for one that breaks the protocol."""
    liars = run.liars()
    for node in run.honest():
        for blame in node.misbehaviour:
            if blame.peer in liars:
                continue
            yield f"{run.name_of(node.host_id)} blames {run.name_of(blame.peer)}: {blame.reason}"


def who_was_caught_has_no_link(run: "ScenarioRun") -> Iterator[str]:
    """Who was caught often enough by a node within the shortest time of shunning has no link to it, whoever dials."""
    now = run.pool.network.now
    for node in run.honest():
        for peer, times in node.conduct.caught_at.items():
            is_caught = len(times) == FAULTS_PER_SHUNNING and now < times[0] + MIN_SHUN_S
            if is_caught and run.pool.network.is_linked(node.host_id, peer):
                yield f"{run.name_of(node.host_id)} is linked to {run.name_of(peer)}, which it has just caught"


def nobody_honest_is_shunned(run: "ScenarioRun") -> Iterator[str]:
    """Neither own observations, nor what others say, keep an honest node from a link to another."""
    liars = run.liars()
    for node in run.honest():
        for peer in sorted(node.mesh.shunned - liars):
            yield f"{run.name_of(node.host_id)} shuns {run.name_of(peer)}"


def slander_of_a_minority_changes_nothing(run: "ScenarioRun") -> Iterator[str]:
    """An honest node is moved only if most of its neighbours lie, and never removed while at most a third of all do."""
    liars, judged_before = run.liars(), set()
    for judged in run.pool.server.judged:
        if judged.node in liars:
            continue
        lying = len(judged.neighbours & liars)
        is_first = judged.node not in judged_before  # who was heard once does not count the next time
        judged_before.add(judged.node)
        if lying < MIN_COMPLAINTS or (is_first and 2 * lying <= len(judged.neighbours)):
            yield f"{run.name_of(judged.node)} was moved by {lying} liars of {len(judged.neighbours)} neighbours"
        if judged.verdict is Verdict.REMOVE and 3 * len(judged.present & liars) <= len(judged.present):
            yield f"{run.name_of(judged.node)} was removed by slander"


def links_are_bounded(run: "ScenarioRun") -> Iterator[str]:
    """Nobody keeps more links than its rings, direct ones and guests may take together; what others closed is over."""
    network = run.pool.network
    for node in run.honest():
        count = len(node.mesh.linked)
        if count > MAX_LINKS:
            count -= sum(network.is_closing(peer, node.host_id) for peer in node.mesh.linked)
        if count > MAX_LINKS:
            yield f"{run.name_of(node.host_id)} has {count} links, more than {MAX_LINKS}"


def memory_is_bounded(run: "ScenarioRun") -> Iterator[str]:
    """No table or queue of a node is larger than its limit."""
    if int(run.pool.network.now) % _MEMORY_INTERVAL_S == 0:
        for node in run.honest():
            yield from memory_beyond_limits(run, node)


def memory_beyond_limits(run: "ScenarioRun", node: SimNode) -> Iterator[str]:
    """Look at one node."""
    for name, size in node.memory_items().items():
        if size > limit_of(name):
            yield f"{run.name_of(node.host_id)} keeps {size} items in {name}, more than {limit_of(name)}"


def a_message_comes_after_what_its_author_had_seen(run: "ScenarioRun") -> Iterator[str]:
    """Whatever the clocks say, an answer is nowhere above what it answers."""
    while run.said_too_early:
        yield run.said_too_early.pop()


def all_have_the_same_history(run: "ScenarioRun") -> Iterator[str]:
    """The same messages in the same order, and all that any of them has, or was told to be safe."""
    online = run.honest()
    expected = {msg_id for node in online for msg_id in (*node.history, *node.acknowledged)}
    for node in online:
        if missing := expected - node.history.keys():
            yield f"{run.name_of(node.host_id)} lacks {len(missing)} of {len(expected)} messages"
    if not run.pool.agree(online):
        yield "the order of messages is not the same everywhere"


def nothing_is_left_to_do(run: "ScenarioRun") -> Iterator[str]:
    """Nothing is wanted, nothing is missing, and nothing is held back but what liars say of a time to come."""
    said = {msg_id for node in run.pool.nodes if not node.is_liar for msg_id in node.acknowledged}
    for node in run.honest():
        held = sum(msg_id in node.held for msg_id in said) if node.held else 0
        waiting = node.agreement.statistics().wanted, held, node.gossip.statistics().missing
        if any(waiting):
            yield f"{run.name_of(node.host_id)} still waits: wanted, held, missing: {waiting}"


def every_wanted_file_is_complete(run: "ScenarioRun") -> Iterator[str]:
    """Whoever wants a file has it, if somebody is there who offers it."""
    online = run.honest()
    there = {
        file_id for node in online for file_id in node.sources if node.host_id in node.store.offers.get(file_id, ())
    }
    for node in online:
        for file_id in sorted((node.wanted & there) - node.completed.keys()):
            held = node.store.pieces.get(file_id, RangeSet())
            yield f"{run.name_of(node.host_id)} has {len(held)} pieces of the file {file_id.hex()[:8]} that it wants"


def everyone_knows_who_is_there(run: "ScenarioRun") -> Iterator[str]:
    """The rosters of the server and of all nodes are those who are online, except who was removed for a while."""
    server = run.pool.server
    online = {node.host_id for node in run.members() if not server.is_expelled(node.host_id)}
    rosters = {"the server": server.roster.nodes}
    rosters |= {run.name_of(node.host_id): node.roster.nodes for node in run.honest()}
    for name, nodes in rosters.items():
        for node in sorted(online ^ nodes):
            yield f"{name} {'does not know' if node in online else 'still counts'} {run.name_of(node)}"


def nobody_is_alone(run: "ScenarioRun") -> Iterator[str]:
    """Everyone has its ring neighbours, so links to two at least who do not lie, if there are; and both ends say so."""
    online = run.honest()
    honest = {node.host_id for node in online}
    linked = {node.host_id: node.mesh.linked & honest for node in online}
    for node in online:
        name = run.name_of(node.host_id)
        if len(linked[node.host_id]) < min(MIN_LINKS, len(online) - 1):
            yield f"{name} has only {len(linked[node.host_id])} links to honest nodes"
        for peer in sorted((node.roster.neighbours(node.host_id) & honest) - linked[node.host_id]):
            yield f"{name} has no link to its neighbour {run.name_of(peer)}"
        for peer in sorted(linked[node.host_id]):
            if node.host_id not in linked.get(peer, ()):
                yield f"{name} has a link to {run.name_of(peer)}, which has none to it"


def nobody_is_linked_to_who_is_out(run: "ScenarioRun") -> Iterator[str]:
    """Whoever knows that somebody was removed has no link to that one, but for those that are being closed."""
    for node in run.honest():
        if node.standing is not None:
            linked = {peer for peer in node.links if run.pool.network.is_linked(node.host_id, peer)}
            for peer in sorted(peer for peer in linked if not node.standing.membership.is_member(peer)):
                yield f"{run.name_of(node.host_id)} is linked to {run.name_of(peer)}, which was removed"


def everyone_agrees_who_is_a_member(run: "ScenarioRun") -> Iterator[str]:
    """All know all that was ever stated, in whatever order it came: the same members, with the same roles."""
    if (truth := run.pool.membership()) is None:
        return
    roles = {member.device_id: member.role for member in truth.members().values()}
    for node in run.honest():
        if node.standing is not None:
            known = {member.device_id: member.role for member in node.standing.membership.members().values()}
            for device in sorted({*roles, *known}):
                if roles.get(device) != known.get(device):
                    yield f"{run.name_of(node.host_id)} takes {run.name_of(device)} for {known.get(device)!r}"


def _is_whole(run: "ScenarioRun", node: SimNode, file_id: FileId) -> bool:
    held = node.store.pieces.get(file_id, RangeSet())
    return len(held) == shape_of(run.pool.offered[file_id]).piece_count


#: At every second.
ALWAYS: tuple[Check, ...] = (
    nothing_acknowledged_is_lost,
    what_is_complete_is_whole,
    nobody_honest_is_blamed,
    nobody_honest_is_shunned,
    who_was_caught_has_no_link,
    slander_of_a_minority_changes_nothing,
    links_are_bounded,
    nobody_is_linked_to_who_is_out,
    memory_is_bounded,
    a_message_comes_after_what_its_author_had_seen,
)
#: At one moment, all of them, within the time that the scenario gives.
IN_THE_END: tuple[Check, ...] = (
    all_have_the_same_history,
    nothing_is_left_to_do,
    every_wanted_file_is_complete,
    everyone_agrees_who_is_a_member,
    everyone_knows_who_is_there,
    nobody_is_alone,
)
