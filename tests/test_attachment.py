"""The node's side of the sync server: what it sends, what it passes on, what it does not put up with.

First the machine alone, at the end with real links, to servers that say what is not so.
"""

import attrs
import pytest
import trio
from sync_world import PoolMaker, device_key
from test_pool import World, enter
from trio.testing import MockClock

import poolnet
from poolnet.identity.membership import Membership
from poolnet.identity.statements import encode_statement, make_removal
from poolnet.limits import ATTACH_TIMEOUT_S, MAX_ROSTER_NODES
from poolnet.protocol.attachment import (
    FINAL_CODES,
    AddStatements,
    Attachment,
    AttachRefused,
    CannotReach,
    Connected,
    Disconnected,
    Leaving,
    Misconduct,
    NodeJoined,
    NodeLeft,
    Observed,
    Received,
    RosterLost,
    RosterReset,
    SendFrame,
    Signal,
    SignalReceived,
    StatementsLearned,
    StatementsMade,
)
from poolnet.server.admission import refusal
from poolnet.server.reception import Reception
from poolnet.wire.framing import UnknownFrame
from poolnet.wire.pool_frames import StatementIds, Statements, WantStatements
from poolnet.wire.sync_frames import (
    ROSTER_PAGE_SIZE,
    Address,
    Attach,
    Attached,
    Detach,
    Refused,
    Report,
    ReportConduct,
    RosterEntry,
    RosterJoined,
    RosterLeft,
    RosterPage,
    SendSignal,
    Signalled,
)

ADDRESS = Address(host="192.0.2.7", port=4000)
ME, OTHER = device_key(1).device_id, device_key(2).device_id


def entry(number: int) -> RosterEntry:
    return RosterEntry(node=device_key(number).device_id, places=(number, number, number))


def a_founder() -> tuple[Attachment, PoolMaker]:
    maker = PoolMaker()
    membership = Membership(maker.pool_id)
    membership.add(maker.genesis)
    return Attachment(membership, ME), maker


def attached(epoch: int = 5) -> Attachment:
    """Return the machine of a founder that is attached, with itself in the roster."""
    machine, _ = a_founder()
    machine.handle(Connected(), 0.0)
    machine.handle(Received(Attached(epoch=epoch, observed=ADDRESS, unix_ms=7)), 0.0)
    machine.handle(Received(RosterPage(entries=(entry(1),), last=True)), 0.0)
    assert machine.is_attached
    return machine


def test_a_founder_shows_the_genesis_lists_it_and_asks_to_be_attached():
    machine, maker = a_founder()
    assert machine.handle(Connected(), 0.0) == [
        SendFrame(Statements(statements=(encode_statement(maker.genesis),))),
        SendFrame(StatementIds(ids=(maker.genesis.statement_id,))),
        SendFrame(Attach(last_epoch=0)),
    ]


def test_a_newcomer_shows_its_join_although_it_cannot_judge_it():
    maker = PoolMaker()
    secret, _ = maker.invite()
    join = encode_statement(maker.join(device_key(2), secret))
    machine = Attachment(Membership(maker.pool_id), OTHER, credentials=(join,))
    assert machine.handle(Connected(), 0.0) == [
        SendFrame(Statements(statements=(join,))),
        SendFrame(Attach(last_epoch=0)),
    ]


def test_a_member_shows_genesis_join_and_invite_once_each():
    maker = PoolMaker()
    secret, invite = maker.invite()
    join = maker.join(device_key(2), secret)
    membership = Membership(maker.pool_id)
    for statement in (maker.genesis, invite, join):
        membership.add(statement)
    machine = Attachment(membership, OTHER, credentials=(encode_statement(join),))
    shown = machine.handle(Connected(), 0.0)[0].frame.statements
    assert sorted(shown) == sorted(encode_statement(statement) for statement in (maker.genesis, invite, join))


def test_the_roster_counts_when_its_last_page_is_here():
    machine, _ = a_founder()
    machine.handle(Connected(), 0.0)
    assert machine.handle(Received(Attached(epoch=9, observed=ADDRESS, unix_ms=7)), 0.0) == [Observed(ADDRESS, 7)]
    assert machine.handle(Received(RosterPage(entries=(entry(1),), last=False)), 0.0) == []
    assert not machine.is_attached
    effects = machine.handle(Received(RosterPage(entries=(entry(2),), last=True)), 0.0)
    assert effects == [RosterReset(9, (entry(1), entry(2)))]
    assert machine.is_attached
    assert machine.next_deadline() is None


def test_roster_events_are_passed_on_in_order_and_only_once():
    machine = attached(epoch=5)
    joined, left = RosterJoined(epoch=6, entry=entry(2)), RosterLeft(epoch=7, node=OTHER)
    assert machine.handle(Received(joined), 0.0) == [NodeJoined(6, entry(2))]
    assert machine.handle(Received(joined), 0.0) == []
    assert machine.handle(Received(left), 0.0) == [NodeLeft(7, OTHER)]
    assert machine.epoch == 7


def test_after_a_gap_the_whole_roster_is_asked_for_and_events_before_it_are_ignored():
    machine = attached(epoch=5)
    assert machine.handle(Received(RosterLeft(epoch=7, node=OTHER)), 1.0) == [SendFrame(Attach(last_epoch=5))]
    assert machine.handle(Received(RosterLeft(epoch=8, node=OTHER)), 1.0) == []
    machine.handle(Received(Attached(epoch=8, observed=ADDRESS, unix_ms=7)), 1.0)
    assert machine.handle(Received(RosterPage(entries=(entry(1),), last=True)), 1.0) == [RosterReset(8, (entry(1),))]
    assert machine.handle(Received(RosterLeft(epoch=9, node=OTHER)), 1.0) == [NodeLeft(9, OTHER)]


def test_whoever_lost_the_roster_gets_it_again():
    machine = attached(epoch=5)
    assert machine.handle(RosterLost(), 0.0) == [SendFrame(Attach(last_epoch=5))]
    assert machine.handle(RosterLost(), 0.0) == []


def test_statements_are_exchanged_both_ways():
    machine, maker = a_founder()
    machine.handle(Connected(), 0.0)
    _, invite = maker.invite()
    known, unknown = maker.genesis.statement_id, invite.statement_id
    encoded = encode_statement(invite)
    assert machine.handle(Received(StatementIds(ids=(known, unknown))), 0.0) == [
        SendFrame(WantStatements(ids=(unknown,)))
    ]
    assert machine.handle(Received(StatementIds(ids=(known,))), 0.0) == []
    assert machine.handle(Received(Statements(statements=(encoded,))), 0.0) == [AddStatements((encoded,))]
    assert machine.handle(Received(WantStatements(ids=(known, unknown))), 0.0) == [
        SendFrame(Statements(statements=(encode_statement(maker.genesis),)))
    ]


def test_a_statement_is_given_to_a_server_once_and_only_if_it_was_listed():
    machine, maker = a_founder()
    machine.handle(Connected(), 0.0)
    known = maker.genesis.statement_id
    want = Received(WantStatements(ids=(known,) * 1000))
    answer = [SendFrame(Statements(statements=(encode_statement(maker.genesis),)))]
    assert machine.handle(Received(WantStatements(ids=())), 0.0) == []
    assert machine.handle(want, 0.0) == answer
    assert [type(effect) for effect in machine.handle(want, 0.0)] == [AttachRefused]
    machine.handle(Disconnected(), 0.0)
    machine.handle(Connected(), 0.0)
    assert machine.handle(want, 0.0) == answer
    machine.handle(StatementsLearned((known,)), 0.0)
    assert machine.handle(want, 0.0) == answer


def test_own_statements_are_pushed_and_learned_ones_announced():
    machine = attached()
    assert machine.handle(StatementsMade((b"made",)), 0.0) == [SendFrame(Statements(statements=(b"made",)))]
    many = tuple(number.to_bytes(32, "big") for number in range(1500))
    frames = [effect.frame for effect in machine.handle(StatementsLearned(many), 0.0)]
    assert [len(frame.ids) for frame in frames] == [1000, 500]


def test_signals_and_reports_go_through():
    machine = attached()
    assert machine.handle(Signal(OTHER, b"x"), 0.0) == [SendFrame(SendSignal(to=OTHER, body=b"x"))]
    assert machine.handle(CannotReach(OTHER), 0.0) == [SendFrame(Report(node=OTHER))]
    assert machine.handle(Received(Signalled(sender=OTHER, body=b"y")), 0.0) == [SignalReceived(OTHER, b"y")]
    assert machine.handle(Received(UnknownFrame(99)), 0.0) == []


def test_without_a_link_nothing_is_sent():
    machine = attached()
    machine.handle(Disconnected(), 0.0)
    for event in (Signal(OTHER, b"x"), CannotReach(OTHER), StatementsMade((b"x",)), RosterLost(), Leaving()):
        assert machine.handle(event, 0.0) == []
    assert machine.handle(Received(RosterLeft(epoch=6, node=OTHER)), 0.0) == []
    assert not machine.is_attached


def test_before_there_was_a_link_nothing_is_sent_or_believed():
    machine, _ = a_founder()
    assert not machine.is_attached
    assert machine.next_deadline() is None
    assert machine.tick(1e9) == []
    for event in (
        Signal(OTHER, b"x"),
        CannotReach(OTHER),
        Misconduct(OTHER, 1),
        StatementsMade((b"x",)),
        StatementsLearned((bytes(32),)),
        RosterLost(),
        Leaving(),
        Received(Attached(epoch=5, observed=ADDRESS, unix_ms=7)),
    ):
        assert machine.handle(event, 0.0) == []
    assert machine.epoch == 0


def test_misconduct_is_told_to_a_server_only_while_it_holds_this_node_in_its_roster():
    machine, _ = a_founder()
    machine.handle(Connected(), 0.0)
    assert machine.handle(Misconduct(OTHER, 1), 0.0) == []
    assert attached().handle(Misconduct(OTHER, 1), 0.0) == [SendFrame(ReportConduct(node=OTHER, kind=1))]


def test_leaving_says_so_and_ends_the_attachment():
    machine = attached()
    assert machine.handle(Leaving(), 0.0) == [SendFrame(Detach())]
    assert not machine.is_attached


def test_a_server_that_does_not_answer_in_time_is_given_up():
    machine, _ = a_founder()
    machine.handle(Connected(), 100.0)
    assert machine.next_deadline() == 100.0 + ATTACH_TIMEOUT_S
    assert machine.tick(100.0 + ATTACH_TIMEOUT_S - 0.1) == []
    [refused] = machine.tick(100.0 + ATTACH_TIMEOUT_S)
    assert (refused.code, refused.is_final) == ("timeout", False)
    assert machine.next_deadline() is None


@pytest.mark.parametrize("code", sorted(FINAL_CODES | {"busy"}))
def test_no_word_of_a_server_is_the_last_one_for_a_member(code):
    machine, _ = a_founder()
    machine.handle(Connected(), 0.0)
    effects = machine.handle(Received(Refused(code=code, message="no")), 0.0)
    assert effects == [AttachRefused(code, "no", False)]


def test_a_removal_is_final_for_who_was_shown_the_statement():
    maker = PoolMaker()
    secret, invite = maker.invite()
    membership = Membership(maker.pool_id)
    for statement in (maker.genesis, invite, maker.join(device_key(2), secret)):
        membership.add(statement)
    machine = Attachment(membership, OTHER)
    machine.handle(Connected(), 0.0)
    removal = maker.removal(OTHER, membership)
    [shown] = machine.handle(Received(Statements(statements=(encode_statement(removal),))), 0.0)
    assert shown == AddStatements((encode_statement(removal),))
    membership.add(removal)
    effects = machine.handle(Received(Refused(code="removed", message="no")), 0.0)
    assert effects == [AttachRefused("removed", "no", True)]


FINAL_FOR_NEWCOMERS = {
    "unknown_pool": True,
    "not_a_member": True,
    "removed": True,
    "invite_unknown": True,
    "invite_expired": True,
    "invite_used_up": True,
    "too_many": False,
    "misbehaved": False,
    "busy": False,
    "timeout": False,
    "protocol": False,
}


@pytest.mark.parametrize(("code", "is_final"), FINAL_FOR_NEWCOMERS.items())
def test_a_newcomer_takes_a_refusal_of_its_join_for_good(code, is_final):
    machine = Attachment(Membership(PoolMaker().pool_id), OTHER)
    machine.handle(Connected(), 0.0)
    effects = machine.handle(Received(Refused(code=code, message="no")), 0.0)
    assert effects == [AttachRefused(code, "no", is_final)]


def test_a_roster_that_is_asked_for_again_amid_its_pages_is_the_new_one_alone():
    machine, _ = a_founder()
    machine.handle(Connected(), 0.0)
    machine.handle(Received(Attached(epoch=5, observed=ADDRESS, unix_ms=7)), 0.0)
    machine.handle(Received(RosterPage(entries=(entry(1), entry(2)), last=False)), 0.0)
    assert machine.handle(Connected(), 1.0)[-1] == SendFrame(Attach(last_epoch=5))  # on a link that replaced the other
    machine.handle(Received(Attached(epoch=9, observed=ADDRESS, unix_ms=7)), 1.0)
    effects = machine.handle(Received(RosterPage(entries=(entry(1),), last=True)), 1.0)
    assert effects == [RosterReset(9, (entry(1),))]


def test_a_server_that_does_not_give_the_roster_again_in_time_is_given_up():
    machine = attached(epoch=5)
    machine.handle(RosterLost(), 50.0)
    assert not machine.is_attached
    assert machine.next_deadline() == 50.0 + ATTACH_TIMEOUT_S
    [refused] = machine.tick(50.0 + ATTACH_TIMEOUT_S)
    assert refused.code == "timeout"


@pytest.mark.parametrize(
    "frames",
    [
        [Attached(epoch=6, observed=ADDRESS, unix_ms=1)],
        [RosterPage(entries=(), last=True)],
        [Detach()],
    ],
    ids=["attached twice", "a page from nowhere", "a frame of the wrong direction"],
)
def test_a_server_that_breaks_the_protocol_is_given_up(frames):
    machine = attached()
    effects = [effect for frame in frames for effect in machine.handle(Received(frame), 0.0)]
    assert [(effect.code, effect.is_final) for effect in effects] == [("protocol", False)]
    assert not machine.is_attached


def test_a_roster_event_amid_the_pages_is_a_violation():
    machine, _ = a_founder()
    machine.handle(Connected(), 0.0)
    machine.handle(Received(Attached(epoch=5, observed=ADDRESS, unix_ms=7)), 0.0)
    [effect] = machine.handle(Received(RosterLeft(epoch=6, node=OTHER)), 0.0)
    assert effect.code == "protocol"


def test_a_roster_without_end_is_a_violation():
    machine, _ = a_founder()
    machine.handle(Connected(), 0.0)
    machine.handle(Received(Attached(epoch=5, observed=ADDRESS, unix_ms=7)), 0.0)
    page = Received(RosterPage(entries=(entry(1),) * ROSTER_PAGE_SIZE, last=False))
    effects = [machine.handle(page, 0.0) for _ in range(MAX_ROSTER_NODES // ROSTER_PAGE_SIZE + 1)]
    assert [effect.code for effect in effects[-1]] == ["protocol"]
    assert not any(effects[:-1])


def test_the_next_attach_tells_the_newest_epoch_seen():
    machine = attached(epoch=5)
    machine.handle(Disconnected(), 0.0)
    assert machine.handle(Connected(), 0.0)[-1] == SendFrame(Attach(last_epoch=5))


@pytest.fixture
def lies(monkeypatch):
    """Make servers say of devices that they were removed."""
    told = set()
    judge = Reception._judge

    def lie(reception, pool, client, unix_ms):
        if client.device in told:
            return refusal(client.client_id, "removed")
        return judge(reception, pool, client, unix_ms)

    monkeypatch.setattr(Reception, "_judge", lie)
    return told


@pytest.mark.timeout(240)
async def test_who_is_removed_by_a_servers_word_alone_goes_on_with_the_others_and_comes_back(
    tmp_path, jumping_clock: MockClock, lies
):
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, "garden", "ada") as ada, enter(bob_node, invite, "bob") as bob:
            await ada.linked(1)
            lies.add(bob_node.device_id)
            hosted = server._core._pools[ada.pool.pool_id]
            await server._perform(hosted._dismiss(bob_node.device_id, "removed"))
            lost = await bob.sees(poolnet.ServerLost)
            assert "a member by the pool's statements" in lost.reason
            assert "removed" in lost.reason
            for moment in range(4):
                await trio.sleep(15)
                await bob.pool.send(f"bob after {moment}")
                await ada.hears(f"bob after {moment}")
                await ada.pool.send(f"ada after {moment}")
                await bob.hears(f"ada after {moment}")
            assert not bob.pool.is_attached
            refused = [event for event in bob.events if isinstance(event, poolnet.ServerLost)]
            assert 3 < len(refused) < 60, "it is asked again, and not all the time"
            assert bob_node.device_id in {member.node for member in ada.pool.members()}
            with pytest.raises(poolnet.Unreachable, match="removed"):
                await bob.pool.wait_attached(20)
            lies.clear()
            await bob.pool.wait_attached(20)


@pytest.mark.timeout(240)
async def test_who_was_removed_while_it_was_away_knows_when_a_server_has_shown_it(tmp_path, jumping_clock: MockClock):
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, "garden", "ada") as ada:
            async with enter(bob_node, invite, "bob"):
                await ada.linked(1)
            removal = make_removal(
                ada_node._own.key,
                pool_id=ada.pool.pool_id,
                device=bob_node.device_id,
                keep=(),
                hlc=ada.pool._time.clock.tick(0),
            )
            await ada.pool.add_statement(removal)
            async with enter(bob_node, "garden", "bob") as bob:
                with pytest.raises(poolnet.Refused) as caught:
                    await bob.pool.wait_attached(20)
                assert caught.value.code == "removed"
                assert bob_node.device_id not in {member.node for member in bob.pool.members()}


@pytest.mark.timeout(240)
async def test_a_newcomer_that_one_server_refuses_is_let_in_by_the_next_and_told_no_when_all_refuse(
    tmp_path, jumping_clock: MockClock
):
    world, elsewhere = World(tmp_path), World(tmp_path / "elsewhere")
    elsewhere.network = world.network
    async with (
        world.server() as server,
        elsewhere.server(port=7666) as stranger,
        world.node("ada") as ada_node,
        world.node("bob") as bob_node,
    ):
        invite = await ada_node.create_pool("garden", server=server.address)
        alone = attrs.evolve(invite, servers=(stranger.address,))
        with pytest.raises(poolnet.Refused) as caught:
            async with bob_node.join(alone):
                pytest.fail("that server does not know the pool")
        assert caught.value.code == "unknown_pool"
        both = attrs.evolve(invite, servers=(stranger.address, server.address))
        async with enter(ada_node, "garden", "ada") as ada, enter(bob_node, both, "bob"):
            await ada.linked(1)
