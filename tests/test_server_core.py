"""The server's machine together with the nodes' side of it, frame by frame, without sockets."""

from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sync_world import Node, PoolMaker, SyncWorld, device_key

from poolnet.identity import membership
from poolnet.identity.statements import (
    Role,
    decode_statement_untrusted,
    encode_statement,
    make_removal,
    make_role,
)
from poolnet.limits import (
    ATTACH_BURST,
    ATTACH_TIMEOUT_S,
    CREATE_BURST,
    FULL_MESH_SIZE,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_SHOWN_STATEMENTS,
    REATTACH_GRACE_S,
    RELINK_GRACE_S,
    ROSTER_BURST,
    SIGNAL_BURST,
    UNLOAD_AFTER_S,
)
from poolnet.protocol import attachment
from poolnet.server.events import FrameReceived
from poolnet.wire.pool_frames import Statements, WantStatements
from poolnet.wire.sync_frames import Attach, Attached, Detach, Report, RosterJoined, RosterPage, SendSignal


class APool:
    """A world with one pool whose founder is attached, and ways to bring further members."""

    def __init__(self, seed: int = 1) -> None:
        self.world = SyncWorld(seed)
        self.maker = PoolMaker()
        self.pool_id = self.maker.pool_id
        self.founder = Node(self.maker.founder, self.pool_id, [self.maker.genesis])
        self.world.attach(self.founder)
        self.secret, invite = self.maker.invite()
        self.world.learn(self.founder, invite)
        self.world.run()
        self.members = [self.founder]

    def newcomer(self, number: int, *, secret=None) -> Node:
        """Return a node that has nothing but its own Join."""
        key = device_key(100 + number)
        host = f"198.51.100.{number % 250}"
        return Node(key, self.pool_id, [self.maker.join(key, secret or self.secret)], host=host)

    def grow(self, count: int) -> list[Node]:
        """Let newcomers join, one after the other."""
        for _ in range(count):
            node = self.newcomer(len(self.members))
            self.world.attach(node)
            self.members.append(node)
        return self.members

    def entries(self) -> dict:
        return self.world.stored[self.pool_id]["roster"]

    def check_agreement(self) -> None:
        """Everyone who is attached has the server's roster and statements."""
        stored = self.world.stored[self.pool_id]
        for node in self.members:
            if node.is_attached:
                assert {entry.node: entry.places for entry in node.roster.entries()} == stored["roster"]
                assert node.roster.epoch == stored["epoch"]
                assert node.statement_ids == set(stored["statements"])


def test_a_founder_brings_the_pool_and_is_attached():
    pool = APool()
    assert pool.founder.is_attached
    assert pool.founder.roster.nodes == {pool.founder.device}
    assert pool.founder.observed == attachment.Observed(pool.founder.address, pool.world.unix_ms)
    pool.check_agreement()


def test_a_newcomer_gets_everything_and_the_others_hear_of_it():
    pool = APool()
    pool.grow(3)
    assert all(node.is_attached for node in pool.members)
    assert pool.founder.joined == [node.device for node in pool.members[1:]]
    assert pool.founder.membership.is_member(pool.members[3].device)
    pool.check_agreement()


def test_what_is_sent_is_stored_before():
    pool = APool()
    pool.grow(2)
    stored = set(pool.world.stored[pool.pool_id]["statements"])
    sent = {
        decode_statement_untrusted(encoded).statement_id
        for _, frame in pool.world.log
        if isinstance(frame, Statements)
        for encoded in frame.statements
    }
    assert sent
    assert sent <= stored


def test_a_newcomer_with_an_unknown_invite_is_refused_for_good():
    pool = APool()
    stranger_secret, _ = pool.maker.invite()
    node = pool.newcomer(1, secret=stranger_secret)
    pool.world.attach(node)
    assert [(refused.code, refused.is_final) for refused in node.refused] == [("invite_unknown", True)]
    assert node.closed == ["invite_unknown"]
    assert pool.founder.joined == []


def test_an_invite_ends_by_the_servers_clock_whatever_stamp_a_join_carries():
    pool = APool()
    secret, invite = pool.maker.invite(lifetime_s=60)
    pool.world.learn(pool.founder, invite)
    backdated = pool.newcomer(1, secret=secret)
    pool.world.pass_time(61)
    pool.world.attach(backdated)
    assert [refused.code for refused in backdated.refused] == ["invite_expired"]


def test_an_invite_admits_as_many_as_it_says_and_those_again():
    pool = APool()
    secret, invite = pool.maker.invite(uses=1)
    pool.world.learn(pool.founder, invite)
    first, second = pool.newcomer(1, secret=secret), pool.newcomer(2, secret=secret)
    pool.world.attach(first)
    pool.world.attach(second)
    assert first.is_attached
    assert [refused.code for refused in second.refused] == ["invite_used_up"]
    pool.world.drop(first)
    pool.world.attach(first)
    assert first.is_attached


def test_a_newcomer_to_an_unknown_pool_is_refused_and_a_stranger_with_nothing_too():
    pool = APool()
    elsewhere = SyncWorld()
    node = pool.newcomer(1)
    elsewhere.attach(node)
    assert [refused.code for refused in node.refused] == ["unknown_pool"]
    nobody = Node(device_key(50), pool.pool_id, [])
    pool.world.attach(nobody)
    assert [refused.code for refused in nobody.refused] == ["not_a_member"]


def test_strangers_cannot_put_statements_into_a_pool():
    pool = APool()
    before = set(pool.world.stored[pool.pool_id]["statements"])
    stranger = device_key(50)
    _, junk = pool.maker.invite(by=stranger)
    node = Node(stranger, pool.pool_id, [junk])
    pool.world.attach(node)
    assert [refused.code for refused in node.refused] == ["not_a_member"]
    assert set(pool.world.stored[pool.pool_id]["statements"]) == before


def test_a_member_that_the_server_does_not_know_shows_the_chain_to_one_that_it_knows():
    pool = APool()
    inviter = pool.grow(1)[1]
    secret, invite = pool.maker.invite(by=inviter.key)
    key = device_key(60)
    join = pool.maker.join(key, secret)
    known = [decode_statement_untrusted(item) for item in inviter.membership.statements()]
    node = Node(key, pool.pool_id, [*known, invite, join])
    pool.world.attach(node)
    assert node.is_attached
    assert pool.founder.membership.is_member(node.device)


def test_a_server_that_lost_its_store_gets_the_pool_from_any_member():
    pool = APool()
    pool.grow(3)
    pool.world.restart_server()
    pool.world.stored.clear()
    member = pool.members[2]
    pool.world.attach(member)
    assert member.is_attached
    pool.world.attach(pool.members[0], pool.members[1], pool.members[3])
    assert all(node.is_attached for node in pool.members)
    pool.check_agreement()


def test_members_that_bring_a_lost_pool_at_the_same_time_all_get_in():
    pool = APool()
    pool.grow(4)
    pool.world.restart_server()
    pool.world.stored.clear()
    pool.world.attach(*pool.members)
    late = [node for node in pool.members if not node.is_attached]
    assert all(node.refused[-1].code == "busy" and not node.refused[-1].is_final for node in late)
    pool.world.attach(*late)
    assert all(node.is_attached for node in pool.members)
    pool.check_agreement()


def test_statements_of_a_member_reach_the_others_before_roster_events():
    pool = APool()
    pool.grow(3)
    _, invite = pool.maker.invite(by=pool.members[1].key)
    pool.world.learn(pool.members[1], invite)
    pool.world.run()
    assert all(invite.statement_id in node.statement_ids for node in pool.members)
    pool.check_agreement()


def test_statements_learned_from_others_are_asked_for_once():
    pool = APool()
    members = pool.grow(2)
    _, invite = pool.maker.invite(by=members[2].key)
    pool.world.log.clear()
    for node in members:
        node.membership.add(invite)
        pool.world.node_event(node, attachment.StatementsLearned((invite.statement_id,)))
    pool.world.run()
    asked = [frame for _, frame in pool.world.log if isinstance(frame, WantStatements)]
    assert asked == [WantStatements(ids=(invite.statement_id,))]
    pool.check_agreement()


def test_what_a_lost_client_was_asked_for_is_asked_of_another():
    pool = APool()
    members = pool.grow(2)
    _, invite = pool.maker.invite(by=members[2].key)
    for node in members[1:]:
        node.membership.add(invite)
    pool.world.node_event(members[1], attachment.StatementsLearned((invite.statement_id,)))
    pool.world.step()
    pool.world.node_event(members[2], attachment.StatementsLearned((invite.statement_id,)))
    pool.world.step()
    pool.world.drop(members[1])
    pool.world.run()
    assert invite.statement_id in pool.founder.statement_ids


def test_a_removed_member_is_out_at_once_and_for_good():
    pool = APool()
    members = pool.grow(3)
    removal = pool.maker.removal(members[2].device, pool.founder.membership)
    pool.world.learn(pool.founder, removal)
    pool.world.run()
    assert [refused.code for refused in members[2].refused] == ["removed"]
    assert members[2].membership.is_member(members[2].device) is False
    assert members[2].device not in pool.founder.roster
    pool.check_agreement()
    pool.world.attach(members[2])
    assert members[2].refused[-1].is_final
    again = pool.newcomer(2)
    pool.world.attach(again)
    assert [refused.code for refused in again.refused] == ["removed"]


def test_a_removed_member_that_was_away_is_shown_by_what_and_nothing_of_who_came_since():
    pool = APool()
    members = pool.grow(3)
    away, admin = members[1], members[2]
    pool.world.drop(away)
    role = make_role(
        pool.maker.founder, pool_id=pool.pool_id, device=admin.device, role=Role.ADMIN, keep=(), hlc=pool.maker.hlc()
    )
    pool.world.learn(pool.founder, role)
    pool.world.run()
    removal = make_removal(admin.key, pool_id=pool.pool_id, device=away.device, keep=(), hlc=pool.maker.hlc())
    pool.world.learn(admin, removal)
    late = pool.newcomer(9)
    pool.world.attach(late)
    assert late.is_attached
    assert away.membership.is_member(away.device), "it has not heard of it"
    pool.world.attach(away)
    assert [(refused.code, refused.is_final) for refused in away.refused] == [("removed", True)]
    assert away.device in away.membership.state.removed
    assert {role.statement_id, removal.statement_id} <= away.statement_ids
    assert late.device not in away.membership.members()


def test_a_node_that_says_it_leaves_is_gone_at_once():
    pool = APool()
    members = pool.grow(2)
    pool.world.node_event(members[1], attachment.Leaving())
    pool.world.run()
    assert pool.founder.left == [members[1].device]
    assert members[1].closed == ["done"]
    pool.check_agreement()


def test_a_node_whose_link_broke_keeps_its_places_for_a_while():
    pool = APool()
    members = pool.grow(2)
    places = dict(pool.entries())
    pool.world.drop(members[1])
    pool.world.pass_time(RELINK_GRACE_S - 0.1)
    pool.world.attach(members[1])
    pool.world.pass_time(10)
    assert pool.founder.left == []
    assert pool.entries() == places
    pool.check_agreement()


def test_a_node_that_does_not_come_back_is_gone_after_a_while():
    pool = APool()
    members = pool.grow(2)
    pool.world.drop(members[1])
    pool.world.pass_time(RELINK_GRACE_S + 0.1)
    assert pool.founder.left == [members[1].device]
    pool.check_agreement()


def test_a_device_that_attaches_again_replaces_its_old_link_without_roster_events():
    pool = APool()
    members = pool.grow(2)
    epoch = pool.founder.roster.epoch
    old = members[1].client
    pool.world.connect(members[1])
    pool.world.run()
    assert members[1].closed == ["replaced"]
    assert old not in pool.world.nodes
    assert members[1].is_attached
    assert pool.founder.roster.epoch == epoch
    pool.world.pass_time(RELINK_GRACE_S + 1)
    assert pool.founder.left == []


def test_a_restart_does_not_disturb_a_pool_whose_nodes_come_back():
    pool = APool()
    pool.grow(4)
    places = dict(pool.entries())
    pool.world.restart_server(after_s=120)
    pool.world.attach(*pool.members[:3])
    pool.world.pass_time(REATTACH_GRACE_S - 1)
    pool.world.attach(*pool.members[3:])
    pool.world.pass_time(REATTACH_GRACE_S)
    assert pool.entries() == places
    assert pool.founder.left == []
    pool.check_agreement()


def test_after_a_restart_those_who_stay_away_are_gone():
    pool = APool()
    pool.grow(3)
    pool.world.restart_server()
    pool.world.attach(*pool.members[:3])
    pool.world.pass_time(REATTACH_GRACE_S + 0.1)
    assert pool.founder.left == [pool.members[3].device]
    pool.check_agreement()


def test_a_roster_from_long_before_is_not_believed():
    pool = APool()
    pool.grow(3)
    pool.world.restart_server()
    pool.world.pass_time(REATTACH_GRACE_S + 1)
    pool.world.attach(pool.founder)
    assert pool.founder.roster.nodes == {pool.founder.device}
    pool.check_agreement()


def test_a_pool_with_nobody_is_unloaded_and_comes_back():
    pool = APool()
    pool.grow(1)
    for node in pool.members:
        pool.world.drop(node)
    pool.world.pass_time(RELINK_GRACE_S + UNLOAD_AFTER_S + 1)
    assert pool.world.core.statistics().pools == 0
    pool.world.attach(pool.members[1])
    assert pool.members[1].is_attached
    assert pool.members[1].membership.is_member(pool.founder.device)


def test_signals_reach_nodes_that_are_attached_and_are_limited():
    pool = APool()
    members = pool.grow(2)
    pool.world.node_event(members[1], attachment.Signal(members[2].device, b"hello"))
    pool.world.node_event(members[1], attachment.Signal(device_key(77).device_id, b"nobody"))
    pool.world.run()
    assert members[2].signals == [(members[1].device, b"hello")]
    for _ in range(2 * SIGNAL_BURST):
        pool.world.node_event(members[1], attachment.Signal(members[2].device, b"again"))
    pool.world.run()
    assert len(members[2].signals) == SIGNAL_BURST - 1  # one was spent on nobody
    assert pool.world.core.statistics().signals_dropped == SIGNAL_BURST + 3


def test_a_node_that_cannot_reach_its_neighbours_gets_other_places_but_not_without_end():
    pool = APool()
    members = pool.grow(FULL_MESH_SIZE)
    before = dict(pool.entries())
    reporter = members[3]
    for _ in range(20):
        for node in members:
            pool.world.node_event(reporter, attachment.CannotReach(node.device))
    pool.world.run()
    redrawn = [
        frame for client, frame in pool.world.log if isinstance(frame, RosterJoined) and client == reporter.client
    ]
    redrawn = [frame for frame in redrawn if frame.entry.node == reporter.device]
    assert len(redrawn) == 2
    assert pool.entries()[reporter.device] != before[reporter.device]
    assert {node: places for node, places in pool.entries().items() if node != reporter.device} == {
        node: places for node, places in before.items() if node != reporter.device
    }
    pool.check_agreement()


def test_in_a_full_mesh_reports_change_nothing():
    pool = APool()
    members = pool.grow(FULL_MESH_SIZE - 1)
    before = dict(pool.entries())
    for node in members[1:]:
        pool.world.send(pool.founder.client, Report(node=node.device))
    pool.world.run()
    assert pool.entries() == before


def test_a_gap_in_the_epochs_is_healed_by_asking_for_the_whole_roster():
    pool = APool()
    members = pool.grow(1)
    newcomer = pool.newcomer(5)
    pool.world.connect(newcomer)
    founder_queue = pool.world.to_node[pool.founder.client]
    while not any(isinstance(frame, RosterJoined) for frame in founder_queue):
        pool.world.step()
    founder_queue.pop()  # a server's bug, as far as the node can see
    pool.members.append(newcomer)
    pool.members.append(third := pool.newcomer(6))
    pool.world.attach(third)
    assert pool.founder.is_attached
    assert len(members) == 4
    pool.check_agreement()


def test_too_many_links_or_attempts_from_one_address_are_refused():
    pool = APool()
    world = SyncWorld()
    codes = []
    for number in range(ATTACH_BURST + 5):
        node = Node(device_key(200 + number), pool.pool_id, [])
        world.connect(node)
        codes += node.closed
    assert codes == ["too_many"] * 5
    other = Node(device_key(999), pool.pool_id, [], host="203.0.113.9")
    world.connect(other)
    assert other.closed == []


def test_connections_of_one_address_are_counted_down_again():
    pool = APool()
    world = SyncWorld()
    for number in range(3 * MAX_CONNECTIONS_PER_ADDRESS):
        world.pass_time(1)
        node = Node(device_key(200 + number), pool.pool_id, [])
        world.connect(node)
        assert node.closed == []
        world.drop(node)
    assert world.core.statistics().clients == 0


def test_one_ipv6_network_is_one_address():
    pool = APool()
    world = SyncWorld()
    for number in range(ATTACH_BURST):
        world.connect(Node(device_key(200 + number), pool.pool_id, [], host=f"2001:db8::{number:x}"))
    same, other = (
        Node(device_key(900 + number), pool.pool_id, [], host=host)
        for number, host in enumerate(("2001:db8::ffff", "2001:db8:0:1::1"))
    )
    world.connect(same)
    world.connect(other)
    assert (same.closed, other.closed) == (["too_many"], [])


def test_new_pools_of_one_address_are_limited():
    world = SyncWorld()
    codes = []
    for number in range(CREATE_BURST + 2):
        maker = PoolMaker(founder=device_key(number + 1))
        node = Node(maker.founder, maker.pool_id, [maker.genesis])
        world.attach(node)
        codes += [refused.code for refused in node.refused]
    assert codes == ["too_many", "too_many"]
    assert len(world.stored) == CREATE_BURST


def test_a_client_that_shows_nothing_is_closed_after_a_while():
    pool = APool()
    node = Node(device_key(50), pool.pool_id, [])
    client = pool.world.connect(node)
    pool.world.to_server[client].clear()
    pool.world.pass_time(ATTACH_TIMEOUT_S + 0.1)
    assert node.closed == ["timeout"]
    assert pool.founder.is_attached


@pytest.mark.parametrize(
    "frame",
    [
        Detach(),
        SendSignal(to=device_key(1).device_id, body=b""),
        Attached(epoch=1, observed=Node(device_key(1), PoolMaker().pool_id, []).address, unix_ms=1),
        Statements(statements=(b"\x00",)),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_client_that_breaks_the_protocol_is_closed(frame):
    pool = APool()
    node = Node(device_key(50), pool.pool_id, [])
    client = pool.world.connect(node)
    pool.world.to_server[client].clear()
    pool.world.send(client, frame)
    pool.world.run()
    assert node.closed == ["protocol"]


def test_a_node_that_sends_what_only_a_server_says_is_closed():
    pool = APool()
    pool.world.send(pool.founder.client, RosterPage(entries=(), last=True))
    pool.world.run()
    assert pool.founder.closed == ["protocol"]


def test_a_server_lists_no_statements_so_nobody_asks_it_for_any():
    pool = APool()
    pool.world.send(pool.founder.client, WantStatements(ids=(pool.maker.genesis.statement_id,) * 1000))
    pool.world.run()
    assert pool.founder.closed == ["protocol"]


def test_who_asks_for_the_whole_roster_again_and_again_is_sent_away():
    pool = APool()
    for _ in range(ROSTER_BURST + 1):
        pool.world.send(pool.founder.client, Attach(last_epoch=0))
    pool.world.run()
    assert pool.founder.closed == ["too_many"]
    pages = [frame for _, frame in pool.world.log if isinstance(frame, RosterPage)]
    assert len(pages) == 1 + ROSTER_BURST


def test_a_newcomer_costs_a_server_one_evaluation(monkeypatch):
    pool = APool()
    pool.grow(3)
    evaluations = []
    original = membership.evaluate

    def evaluate(*args):
        evaluations.append(1)
        return original(*args)

    nodes = [pool.newcomer(50), pool.newcomer(51)]
    monkeypatch.setattr(membership, "evaluate", evaluate)
    for node in nodes:
        client = pool.world.connect(node)
        frames = pool.world.to_server[client]
        evaluations.clear()
        while frames:
            event = FrameReceived(client=client, frame=frames.popleft(), unix_ms=pool.world.unix_ms)
            pool.world.core.handle(event, pool.world.now)
        assert len(evaluations) == 1


def test_more_statements_than_are_needed_to_be_judged_are_a_violation():
    pool = APool()
    node = Node(device_key(50), pool.pool_id, [])
    client = pool.world.connect(node)
    pool.world.to_server[client].clear()
    junk = tuple(encode_statement(pool.maker.invite(by=node.key)[1]) for _ in range(MAX_SHOWN_STATEMENTS + 1))
    pool.world.send(client, Statements(statements=junk))
    pool.world.run()
    assert node.closed == ["protocol"]


def test_when_the_store_fails_nobody_hears_of_what_is_not_stored():
    pool = APool()
    members = pool.grow(2)
    pool.world.store_fails = True
    newcomer = pool.newcomer(9)
    pool.world.connect(newcomer)
    pool.world.run()
    assert newcomer.refused[-1].code == "busy"
    assert newcomer.device not in pool.founder.joined
    pool.world.store_fails = False
    pool.world.attach(*members, newcomer)
    pool.members.append(newcomer)
    assert all(node.is_attached for node in pool.members)
    pool.check_agreement()


def test_frames_that_arrive_while_a_pool_is_loaded_are_not_lost():
    pool = APool()
    pool.world.restart_server()
    held = []
    perform = pool.world._perform_one
    pool.world._perform_one = held.append
    pool.world.attach(pool.founder)
    pool.world._perform_one = perform
    assert not pool.founder.is_attached
    for effect in held:
        perform(effect)
    pool.world.run()
    assert pool.founder.is_attached


def test_what_a_full_pool_forgets_is_forgotten_by_the_store_as_well(monkeypatch):
    monkeypatch.setattr("poolnet.identity.membership.MAX_STATEMENTS", 6)
    monkeypatch.setattr("poolnet.identity.membership.RESERVED_STATEMENTS", 0)
    pool = APool()
    member = pool.grow(1)[1]
    strangers = [device_key(300 + number) for number in range(5)]
    junk = [pool.maker.invite(by=stranger)[1] for stranger in strangers]
    frames = tuple(encode_statement(statement) for statement in junk)
    pool.world.send(member.client, Statements(statements=frames))
    pool.world.run()
    stored = set(pool.world.stored[pool.pool_id]["statements"])
    assert len(stored) <= 6
    assert pool.maker.genesis.statement_id in stored
    pool.world.restart_server()
    pool.world.attach(*pool.members)
    assert all(node.is_attached for node in pool.members)


def test_a_pool_that_is_too_large_to_be_new_is_refused(monkeypatch):
    pool = APool()
    pool.grow(3)
    monkeypatch.setattr("poolnet.server.reception.MAX_FOUNDING_SIZE", 800)
    elsewhere = SyncWorld()
    pool.founder.client = None
    elsewhere.attach(pool.founder)
    assert pool.founder.closed == ["protocol"]
    assert elsewhere.stored == {}


def test_a_stored_statement_that_cannot_be_read_does_not_keep_the_others_away():
    pool = APool()
    pool.grow(1)
    pool.world.stored[pool.pool_id]["statements"][b"x" * 32] = b"of another version"
    pool.world.restart_server()
    pool.world.attach(*pool.members)
    assert all(node.is_attached for node in pool.members)


def test_whoever_was_removed_while_the_server_was_down_is_not_in_the_roster_any_more():
    pool = APool()
    members = pool.grow(2)
    pool.world.restart_server()
    removal = pool.maker.removal(members[1].device, pool.founder.membership)
    pool.world.stored[pool.pool_id]["statements"][removal.statement_id] = encode_statement(removal)
    pool.world.attach(members[0], members[2])
    assert members[1].device not in pool.founder.roster
    pool.check_agreement()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_nodes_and_server_agree_whatever_happens_in_whatever_order(seed):
    rng = Random(seed)
    pool = APool(seed)
    world = pool.world
    for number in range(1, 40):
        action = rng.choice(["join", "join", "drop", "return", "leave", "restart", "invite", "wait", "steps", "remove"])
        node = rng.choice(pool.members)
        if action == "join" and len(pool.members) < 10:
            pool.members.append(newcomer := pool.newcomer(number))
            world.connect(newcomer)
        elif action == "drop" and node.client is not None:
            world.drop(node)
        elif action == "return" and node.client is None:
            world.connect(node)
        elif action == "leave" and node.is_attached:
            world.node_event(node, attachment.Leaving())
        elif action == "restart" and rng.random() < 0.3:
            world.restart_server(after_s=rng.random() * 10)
        elif action == "invite" and node.membership.is_member(node.device):
            world.learn(node, pool.maker.invite(by=node.key)[1])
        elif action == "wait":
            world.pass_time(rng.random() * 10)
        elif action == "remove" and node is not pool.founder and rng.random() < 0.5:
            world.learn(pool.founder, pool.maker.removal(node.device, pool.founder.membership))
        else:
            for _ in range(rng.randrange(20)):
                world.step()
    world.pass_time(ATTACH_TIMEOUT_S + REATTACH_GRACE_S)
    for _ in range(3):  # "busy" is to be tried again
        world.attach(*[node for node in pool.members if node.client is None])
    pool.check_agreement()
    removed = {node.device for node in pool.members if not pool.founder.membership.is_member(node.device)}
    joined = [node for node in pool.members if node.device not in removed]
    assert all(node.is_attached for node in joined)
    assert pool.founder.roster.nodes == {node.device for node in joined}


def test_who_breaks_the_protocol_once_attached_loses_its_places_like_who_goes_without_a_word():
    pool = APool()
    bad = pool.grow(3)[2]
    pool.world.send(bad.client, WantStatements(ids=()))  # a server lists nothing
    pool.world.run()
    assert bad.closed == ["protocol"]
    assert bad.device in pool.entries()
    pool.world.pass_time(RELINK_GRACE_S)
    assert bad.device not in pool.entries()
    assert pool.founder.left == [bad.device]
    pool.world.attach(bad)
    assert bad.is_attached
    pool.check_agreement()


@pytest.mark.parametrize("is_signed", [False, True], ids=["not signed", "of another pool"])
def test_a_false_statement_of_a_member_ends_its_attachment_at_the_first(is_signed: bool) -> None:
    pool = APool()
    bad = pool.grow(3)[2]
    _, true = pool.maker.invite(by=bad.key)
    _, other = PoolMaker(unix_ms=5).invite(by=bad.key) if is_signed else pool.maker.invite(by=bad.key)
    false = other if is_signed else attrs.evolve(other, signatures=(bytes(64),))
    for _ in range(5):
        pool.world.send(bad.client, Statements(statements=(encode_statement(true), encode_statement(false))))
    pool.world.run()
    assert bad.closed == ["protocol"]
    assert false.statement_id not in pool.founder.membership
    assert true.statement_id not in pool.founder.membership, "what comes with it is not worth a look"
    pool.world.attach(bad)
    assert bad.is_attached
