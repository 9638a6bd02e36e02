"""The acquaintance of a node: drawn at random, anew, and never of those it knows anyway."""

from random import Random

from poolnet.ids import DeviceId
from poolnet.limits import ACQUAINTANCE_DELAY_S, ACQUAINTANCE_S, FULL_MESH_SIZE, GUEST_STAY_S
from poolnet.protocol import mesh
from poolnet.protocol.acquaintance import Acquaintance
from poolnet.protocol.mesh import CloseLink, Dial, DialFailed, LinkUp, Mesh, RosterChanged
from poolnet.protocol.rings import Roster
from poolnet.wire.sync_frames import RosterEntry

ME = DeviceId(bytes(32))


def node_number(number: int) -> DeviceId:
    return DeviceId(number.to_bytes(32, "big"))


def ring_of(count: int) -> Roster:
    roster = Roster()
    roster.reset(1, [RosterEntry(node=node_number(n), places=(n, n, n)) for n in range(count)])
    return roster


def draws(count: int, *, seed: int, times: int) -> list[DeviceId]:
    """Return whom a node draws one after the other in a pool of so many."""
    acquaintance = Acquaintance(ME, ring_of(count), Random(seed))
    drawn, now = [], 0.0
    acquaintance.update(set, now)
    while len(drawn) < times:
        assert acquaintance.draw_at is not None
        now = acquaintance.draw_at
        acquaintance.update(set, now)
        assert acquaintance.peer is not None
        drawn.append(acquaintance.peer)
    return drawn


def test_nobody_is_drawn_in_a_full_mesh_nor_by_who_is_not_in_the_roster() -> None:
    stranger = DeviceId(b"s" * 32)
    for acquaintance in (
        Acquaintance(ME, ring_of(FULL_MESH_SIZE), Random(1)),
        Acquaintance(stranger, ring_of(20), Random(1)),
    ):
        acquaintance.update(set, 0.0)
        assert acquaintance.draw_at is None
        assert acquaintance.peer is None


def test_in_time_everybody_is_drawn_about_equally_often_and_never_oneself() -> None:
    drawn = draws(20, seed=3, times=1900)
    counts = [drawn.count(node_number(number)) for number in range(1, 20)]
    assert drawn.count(ME) == 0
    assert min(counts) > 60
    assert max(counts) < 140


def test_those_who_are_known_are_not_drawn() -> None:
    known = {node_number(number) for number in range(1, 19)}
    acquaintance = Acquaintance(ME, ring_of(20), Random(1))
    acquaintance.update(lambda: known, 0.0)
    acquaintance.update(lambda: known, 2 * ACQUAINTANCE_DELAY_S)
    assert acquaintance.peer == node_number(19)
    acquaintance.update(lambda: {*known, node_number(19)}, 500.0)
    assert acquaintance.peer is None


def test_one_that_leaves_the_pool_is_not_kept() -> None:
    roster = ring_of(20)
    acquaintance = Acquaintance(ME, roster, Random(1))
    acquaintance.update(set, 0.0)
    acquaintance.update(set, 2 * ACQUAINTANCE_DELAY_S)
    assert acquaintance.peer is not None
    roster.apply_left(2, acquaintance.peer)
    acquaintance.update(set, 2 * ACQUAINTANCE_DELAY_S)
    assert acquaintance.peer is None


def test_a_mesh_dials_its_acquaintance_closes_the_last_one_and_tries_another_soon_if_it_is_not_reached() -> None:
    machine = Mesh(ME, ring_of(20), Random(2))
    machine.handle(RosterChanged(), 0.0)
    for neighbour in (1, 19):
        machine.handle(LinkUp(node_number(neighbour), is_dialler=True), 0.0)
    (first,) = machine.tick(2 * ACQUAINTANCE_DELAY_S)
    assert isinstance(first, Dial)
    assert machine.handle(DialFailed(first.peer), 12.0) == []
    (second,) = machine.tick(12.0 + 2 * ACQUAINTANCE_DELAY_S)
    assert isinstance(second, Dial)
    machine.handle(LinkUp(second.peer, is_dialler=True), 22.0)
    (third,) = machine.tick(22.0 + ACQUAINTANCE_S)
    assert isinstance(third, Dial)
    machine.handle(LinkUp(third.peer, is_dialler=True), 142.0)
    assert CloseLink(second.peer, mesh.NOT_A_NEIGHBOUR) in machine.tick(160.0)
    assert {node_number(1), node_number(19)} < machine.wanted


def test_where_all_places_are_taken_a_newcomer_gets_that_of_the_oldest_guest_now_and_then() -> None:
    machine = Mesh(node_number(5), ring_of(40), Random(1), has_acquaintance=False)
    machine.handle(RosterChanged(), 0.0)
    for peer in (4, 6):
        machine.handle(LinkUp(node_number(peer), is_dialler=True), 0.0)
    for number in range(mesh.MAX_LINKS - 2):
        machine.handle(LinkUp(node_number(10 + number), is_dialler=False), float(number))
    last = float(mesh.MAX_LINKS - 3)
    machine.tick(last + GUEST_STAY_S - 1)
    assert not machine.may_accept(node_number(30))
    machine.tick(last + GUEST_STAY_S)
    assert machine.may_accept(node_number(30))
    effects = machine.handle(LinkUp(node_number(30), is_dialler=False), last + GUEST_STAY_S)
    assert effects == [CloseLink(node_number(10), mesh.TOO_MANY_LINKS)]
    assert not machine.may_accept(node_number(31))
