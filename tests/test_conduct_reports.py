"""Reports of misconduct to a sync server, frame by frame: what many neighbours achieve, and few do not."""

from random import Random

import attrs
import pytest
from sync_world import Node, device_key
from test_server_core import APool

from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import make_join
from poolnet.identity.user import SignedAddDevice, found_user
from poolnet.ids import DeviceId
from poolnet.limits import (
    COMPLAINT_BURST,
    COMPLAINT_LIFETIME_S,
    FULL_MESH_SIZE,
    REATTACH_GRACE_S,
    RELINK_GRACE_S,
    REMOVAL_S,
    RING_COUNT,
    STRIKE_INTERVAL_S,
    STRIKES_PER_REMOVAL,
)
from poolnet.protocol import attachment
from poolnet.protocol.conduct import Kind
from poolnet.server.places import Places
from poolnet.wire.cbor import encode_cbor
from poolnet.wire.schema import encode_fields
from poolnet.wire.sync_frames import Attach, Report, ReportConduct


class Court(APool):
    """A pool whose nodes complain about each other."""

    def named(self, device: DeviceId) -> Node:
        return next(node for node in self.members if node.device == device)

    def neighbours(self, node: Node) -> list[Node]:
        """Whom the rings make neighbours of a node now, as another one sees it."""
        seen_by = next(member for member in self.members if member is not node and member.is_attached)
        return [self.named(device) for device in sorted(seen_by.roster.neighbours(node.device))]

    def complain(self, reporter: Node, about: Node, kind: Kind = Kind.BAD_CHUNK) -> None:
        self.world.node_event(reporter, attachment.Misconduct(about.device, kind))
        self.world.run()

    def all_complain(self, about: Node) -> None:
        """Have a node's neighbours complain about it, until that leads to something."""
        before = self.verdicts
        for neighbour in self.neighbours(about):
            if self.verdicts == before:
                self.complain(neighbour, about)

    @property
    def verdicts(self) -> tuple[int, int]:
        counts = self.world.core.statistics()
        return counts.moved, counts.expelled


def further_device(first: SignedAddDevice, signer: DeviceKey, key: DeviceKey) -> SignedAddDevice:
    """Return what says that a user has another device."""
    content = attrs.evolve(first.content, user_id=first.user_id, device_key=key.public_key)
    signed = encode_cbor(encode_fields(content))
    return SignedAddDevice(user_id=first.user_id, content=content, signed=signed, signature=signer.sign(signed))


def large(seed: int = 1, count: int = 30) -> Court:
    pool = Court(seed)
    pool.grow(count - 1)
    return pool


def test_a_majority_of_its_neighbours_gives_a_node_other_places_and_everybody_hears_of_it() -> None:
    pool = large()
    bad = pool.members[7]
    before = pool.entries()[bad.device]
    accusers = pool.neighbours(bad)
    enough = max(3, len(accusers) // 2 + 1)
    for neighbour in accusers[: enough - 1]:
        pool.complain(neighbour, bad)
    assert pool.entries()[bad.device] == before
    pool.complain(accusers[enough - 1], bad)
    assert pool.entries()[bad.device] != before
    assert pool.verdicts == (1, 0)
    assert bad.is_attached
    pool.check_agreement()


def test_the_third_time_it_is_out_for_a_while_and_its_membership_is_nobodys_business() -> None:
    pool = large()
    bad = pool.members[7]
    for _ in range(STRIKES_PER_REMOVAL):
        assert bad.device in pool.entries()
        pool.all_complain(bad)
        pool.world.pass_time(120)
    assert pool.verdicts == (STRIKES_PER_REMOVAL - 1, 1)
    assert bad.device not in pool.entries()
    assert pool.founder.left == [bad.device]
    assert [(refused.code, refused.is_final) for refused in bad.refused] == [("misbehaved", False)]
    pool.world.attach(bad)
    assert not bad.is_attached
    assert pool.founder.membership.is_member(bad.device)
    pool.world.pass_time(REMOVAL_S)
    pool.world.attach(bad)
    assert bad.is_attached
    pool.check_agreement()


def test_who_is_no_neighbour_or_complains_about_itself_or_a_stranger_is_not_heard() -> None:
    pool = large()
    bad = pool.members[7]
    near = [bad, *pool.neighbours(bad)]
    for node in pool.members:
        if node not in near:
            pool.complain(node, bad)
    stranger = pool.newcomer(99)
    for node in pool.members:
        pool.complain(node, node)
        pool.complain(node, stranger)
    assert pool.verdicts == (0, 0)


def test_who_is_away_counts_as_content_while_it_keeps_its_place_and_then_not_at_all() -> None:
    pool = large(count=FULL_MESH_SIZE)
    bad = pool.members[3]
    first, second, third, *away = pool.neighbours(bad)
    for node in away:
        pool.world.drop(node)
    for node in (first, second, third):
        pool.complain(node, bad)
    assert pool.verdicts == (0, 0)
    pool.world.pass_time(RELINK_GRACE_S)
    pool.complain(third, bad)
    assert pool.verdicts == (1, 0)


def test_who_comes_back_first_after_a_restart_of_the_server_is_no_majority() -> None:
    pool = large(count=FULL_MESH_SIZE)
    victim, *others = pool.members
    liars = others[:3]
    pool.world.restart_server()
    pool.world.attach(*liars, victim)
    for _ in range(STRIKES_PER_REMOVAL):
        for liar in liars:
            pool.complain(liar, victim)
    assert pool.verdicts == (0, 0)
    pool.world.attach(*others[3:])
    pool.world.pass_time(REATTACH_GRACE_S)
    for liar in liars:
        pool.complain(liar, victim)
    assert pool.verdicts == (0, 0)
    assert victim.is_attached


def test_all_whom_a_member_brought_in_are_one_voice_whatever_users_they_say_they_are() -> None:
    pool = large(count=2)
    victim, (honest, liar) = pool.founder, pool.grow(1)[1:]
    secret, invite = pool.maker.invite(by=liar.key)
    pool.world.learn(liar, invite)
    guests = [pool.newcomer(10 + number, secret=secret) for number in range(3)]
    deeper, by_guest = pool.maker.invite(by=guests[0].key)
    pool.world.attach(guests[0])
    pool.world.learn(guests[0], by_guest)
    guests.append(pool.newcomer(20, secret=deeper))
    pool.world.attach(*guests[1:])
    pool.members += guests
    assert all(guest.is_attached for guest in guests)
    assert len(pool.entries()) == FULL_MESH_SIZE
    for _ in range(2 * STRIKES_PER_REMOVAL):
        for node in (liar, *guests):
            pool.complain(node, victim)
            pool.complain(node, honest)
        pool.world.pass_time(STRIKE_INTERVAL_S)
    assert pool.verdicts == (0, 0)


def test_whom_an_admin_let_in_has_a_voice_of_its_own_and_one_user_on_many_devices_has_one() -> None:
    pool = Court()
    first = found_user(device_key(101), unix_ms=1, device_name="first")
    for number in range(1, FULL_MESH_SIZE):
        key = device_key(100 + number)
        claim = found_user(key, unix_ms=1, device_name="first")
        if 1 < number <= 4:
            claim = further_device(first, device_key(101), key)
        join = make_join(key, pool.secret, pool_id=pool.pool_id, user=claim, hlc=pool.maker.hlc())
        pool.members.append(Node(key, pool.pool_id, [join], host=f"198.51.100.{number}"))
        pool.world.attach(pool.members[-1])
    victim, *others = pool.members
    assert all(node.is_attached for node in others)
    for node in others[:5]:
        pool.complain(node, victim)
    assert pool.verdicts == (0, 0)  # that are two voices
    pool.complain(others[5], victim)
    assert pool.verdicts == (1, 0)


def test_in_a_full_mesh_nobody_is_moved_but_the_third_time_it_is_out() -> None:
    pool = large(count=FULL_MESH_SIZE)
    bad = pool.members[3]
    before = dict(pool.entries())
    for _ in range(STRIKES_PER_REMOVAL - 1):
        pool.all_complain(bad)
        assert pool.entries() == before
        pool.world.pass_time(120)
    pool.all_complain(bad)
    assert pool.entries().keys() == before.keys() - {bad.device}


def test_in_a_pool_of_three_nobody_is_judged() -> None:
    pool = large(count=3)
    for _ in range(20):
        pool.all_complain(pool.members[1])
        pool.world.pass_time(120)
    assert pool.verdicts == (0, 0)


def test_one_reporter_is_not_heard_too_often() -> None:
    pool = large(count=FULL_MESH_SIZE)
    for number in range(1000):
        pool.complain(pool.founder, pool.members[1 + number % 5])
    assert pool.world.core.statistics().complaints == COMPLAINT_BURST
    pool.world.pass_time(60)
    pool.complain(pool.founder, pool.members[1])
    assert pool.world.core.statistics().complaints == COMPLAINT_BURST + 1


def test_a_restarted_server_has_forgotten_what_was_said_and_believes_it_anew() -> None:
    pool = large()
    bad = pool.members[7]
    for _ in range(STRIKES_PER_REMOVAL - 1):
        pool.all_complain(bad)
        pool.world.pass_time(120)
    pool.world.restart_server()
    pool.world.attach(*pool.members)
    pool.all_complain(bad)
    assert pool.verdicts == (1, 0)
    assert bad.device in pool.entries()


@pytest.mark.parametrize("kind", [0, 7, 255])
def test_a_kind_of_a_later_version_is_understood_as_a_complaint(kind: int) -> None:
    pool = large(count=FULL_MESH_SIZE)
    pool.world.send(pool.founder.client, ReportConduct(node=pool.members[1].device, kind=kind))
    pool.world.run()
    assert pool.world.core.statistics().complaints == 1
    assert pool.founder.is_attached


def test_a_node_that_is_not_attached_keeps_what_it_saw_to_itself() -> None:
    pool = large(count=3)
    late = pool.newcomer(50)
    pool.world.connect(late)
    assert late.attachment.handle(attachment.Misconduct(pool.founder.device, Kind.FLOOD), pool.world.now) == []
    pool.world.run()
    assert late.is_attached


def test_a_complaint_of_who_is_not_attached_is_a_violation() -> None:
    pool = large(count=3)
    late = pool.newcomer(50)
    client = pool.world.connect(late)
    pool.world.to_server[client].clear()
    pool.world.send(client, ReportConduct(node=pool.founder.device, kind=1))
    pool.world.send(client, Attach(last_epoch=0))
    pool.world.run()
    assert late.closed == ["protocol"]


def test_leaving_and_coming_back_brings_a_device_to_the_same_places() -> None:
    pool = large()
    node = pool.members[5]
    before = pool.entries()[node.device]
    for _ in range(3):
        pool.world.node_event(node, attachment.Leaving())
        pool.world.run()
        assert node.device not in pool.entries()
        pool.world.attach(node)
        assert pool.entries()[node.device] == before


def test_places_are_drawn_for_each_device_and_each_pool_and_each_time_they_are_changed() -> None:
    devices = [DeviceId(number.to_bytes(32, "big")) for number in range(200)]
    places = Places(Random(1))
    drawn = {device: places.of(device) for device in devices}
    assert all(len(own) == RING_COUNT for own in drawn.values())
    assert len({place for own in drawn.values() for place in own}) == RING_COUNT * len(devices)
    assert [places.of(device) for device in devices] == list(drawn.values())
    places.move(devices[0])
    assert places.of(devices[0]) != drawn[devices[0]]
    assert places.of(devices[1]) == drawn[devices[1]]
    assert Places(Random(2)).of(devices[1]) != drawn[devices[1]]
    low = sum(place < 2**63 for own in drawn.values() for place in own)
    assert 200 < low < 400  # of 600


def shuffle(pool: Court, liar: Node, rng: Random) -> None:
    """Have a liar look for better places: by what it says of others, and by leaving and coming back."""
    for node in rng.sample(pool.members, 3):
        if node is not liar and liar.is_attached:
            pool.world.send(liar.client, Report(node=node.device))  # type: ignore[arg-type]
    if rng.random() < 0.2 and liar.is_attached:
        pool.world.node_event(liar, attachment.Leaving())
        pool.world.run()
    if not liar.is_attached:
        pool.world.attach(liar)
    pool.world.run()


@pytest.mark.parametrize("seeks", [False, True], ids=["patient", "looking for places"])
@pytest.mark.parametrize("seed", range(2))
def test_a_third_that_slanders_whoever_it_can_for_an_hour_puts_nobody_out(seed: int, seeks: bool) -> None:
    pool, rng = large(seed, count=45), Random(seed)
    liars = pool.members[30:]
    honest = set(pool.members[:30])
    for minute in range(60):
        if seeks and minute % 10 == 0:
            for liar in liars:
                shuffle(pool, liar, rng)
        for liar in liars:
            for neighbour in pool.neighbours(liar):
                if neighbour in honest and liar.is_attached:
                    pool.world.send(liar.client, ReportConduct(node=neighbour.device, kind=1))  # type: ignore[arg-type]
        pool.world.pass_time(60)
    assert pool.world.core.statistics().complaints > 300
    assert all(node.is_attached for node in honest)
    assert pool.verdicts[1] == 0


def test_a_few_that_break_the_rules_to_everybody_are_out_soon_and_whoever_they_slander_stays() -> None:
    pool, rng = large(seed=5, count=40), Random(5)
    bad = pool.members[34:]
    honest = pool.members[:34]
    for _ in range(4 * STRIKES_PER_REMOVAL):
        for node in bad:
            if node.device not in pool.entries():
                continue
            for neighbour in pool.neighbours(node):
                if neighbour in honest:
                    pool.complain(neighbour, node)
                elif node.is_attached:
                    pool.complain(node, rng.choice(honest))
        pool.world.pass_time(COMPLAINT_LIFETIME_S / 30)
    assert [node for node in bad if node.device in pool.entries()] == []
    assert {node.device for node in honest} <= pool.entries().keys()
