"""What the small pure parts say to what makes no sense, and where each of them stops."""

import pytest
from pool_builder import Pool, key_of
from sync_world import Node, PoolMaker, SyncWorld

from poolnet.clock import HybridClock, make_hlc
from poolnet.errors import WireError
from poolnet.identity.authorship import sign_message
from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import Role, make_genesis
from poolnet.ids import DeviceId, MsgId, PoolId, encode_id, id_prefix_range_untrusted
from poolnet.limits import MAX_CLOCK_AHEAD_S, MAX_IDS_PER_WANT, MAX_PRE_AUTH_SIZE, MAX_REMEMBERED_RETRACTIONS
from poolnet.protocol.fetching import pack_messages
from poolnet.protocol.hash_tree import TreeShape
from poolnet.protocol.holding import HeldMessages
from poolnet.protocol.link_auth import LinkAuth, Received, Rejected, Started
from poolnet.protocol.rings import Roster
from poolnet.protocol.routes import hops_to_holder
from poolnet.server.events import FrameReceived
from poolnet.storage.message_export import _size
from poolnet.views.timeline import Timeline
from poolnet.wire.bodies import TextBody
from poolnet.wire.framing import UnknownFrame
from poolnet.wire.link_frames import Hello, Purpose
from poolnet.wire.sync_frames import RosterEntry

KEY = DeviceKey.from_seed(bytes(32))
POOL = PoolId(b"p" * 32)


def test_a_tree_is_of_no_negative_size() -> None:
    with pytest.raises(ValueError, match="negative"):
        TreeShape(-1)


def test_a_prefix_that_is_longer_than_an_id_or_ends_in_bits_that_none_has_is_refused() -> None:
    whole = encode_id(b"\xff" * 32)
    assert id_prefix_range_untrusted(whole)[0] == b"\xff" * 32
    for prefix in (whole + "a", whole[:-1] + "7"):
        with pytest.raises(WireError):
            id_prefix_range_untrusted(prefix)


def test_a_statement_is_equal_to_nothing_else() -> None:
    genesis = make_genesis(KEY, name="x", nonce=bytes(16), hlc=make_hlc(1))
    assert genesis == make_genesis(KEY, name="x", nonce=bytes(16), hlc=make_hlc(1))
    assert genesis != "genesis"
    assert len({genesis, genesis}) == 1


def test_a_message_of_later_is_held_once() -> None:
    held = HeldMessages(HybridClock())
    later = sign_message(
        KEY, pool_id=POOL, hlc=make_hlc(1000 * round(MAX_CLOCK_AHEAD_S) + 2001), body=TextBody(text="x")
    )
    assert not held.admit(later, 1000)
    assert not held.admit(later, 1000)
    assert held.release(1000) == []
    assert held.release(2001) == [later]
    assert held.release(10**9) == []


def test_messages_are_packed_into_as_few_frames_as_hold_them() -> None:
    assert [(frame.is_last, frame.messages) for frame in pack_messages(7, [])] == [(True, ())]
    sizes = [len(frame.messages) for frame in pack_messages(7, [b"x"] * (2 * MAX_IDS_PER_WANT + 1))]
    assert sizes == [MAX_IDS_PER_WANT, MAX_IDS_PER_WANT, 1]
    large = list(pack_messages(7, [bytes(15_000)] * 9))
    assert [frame.is_last for frame in large] == [False] * (len(large) - 1) + [True]
    assert sum(len(frame.messages) for frame in large) == 9
    assert {frame.number for frame in large} == {7}
    assert all(sum(map(len, frame.messages)) < 64_000 for frame in large)


@pytest.mark.parametrize("given", ["nothing", "both", "a hello without a key", "a key without a hello"])
def test_a_proof_is_that_of_a_dialler_or_of_an_acceptor(given: str) -> None:
    hello = (Purpose.POOL, POOL, ()) if given in ("both", "a hello without a key") else None
    peer_key = KEY.public_key if given in ("both", "a key without a hello") else None

    def authorise(_hello: Hello) -> tuple[bytes, ...]:
        return ()

    policy = None if given in ("nothing", "a hello without a key") else authorise
    with pytest.raises(ValueError, match="a dialler has a hello"):
        LinkAuth(KEY, nonce=bytes(32), now=0.0, hello=hello, peer_key=peer_key, authorise=policy)


@pytest.mark.parametrize("size", [MAX_PRE_AUTH_SIZE - 4, MAX_PRE_AUTH_SIZE - 3])
def test_a_first_frame_that_never_ends_is_refused_when_it_is_too_much(size: int) -> None:
    auth = LinkAuth(KEY, nonce=bytes(32), now=0.0, authorise=lambda _hello: ())
    auth.handle(Started(), 0.0)
    effects = auth.handle(Received(MAX_PRE_AUTH_SIZE.to_bytes(4, "big") + bytes(size)), 0.0)
    assert [effect.code for effect in effects if isinstance(effect, Rejected)] == ["protocol"] * (
        size > MAX_PRE_AUTH_SIZE - 4
    )
    assert auth.is_done == (size > MAX_PRE_AUTH_SIZE - 4)


def test_the_way_to_a_holder_goes_round_this_node_on_a_single_line_of_links() -> None:
    count = 16
    nodes = [DeviceId(number.to_bytes(32, "big")) for number in range(count)]
    roster = Roster()
    roster.reset(1, [RosterEntry(node=node, places=(place,) * 3) for place, node in enumerate(nodes)])
    assert roster.neighbours(nodes[0]) == {nodes[1], nodes[-1]}
    assert hops_to_holder(roster, nodes[0], {nodes[-1]}, [nodes[2]]) == count - 2
    assert hops_to_holder(roster, nodes[0], {nodes[1]}, [nodes[2]]) == 2
    far = [DeviceId(number.to_bytes(32, "big")) for number in range(40)]
    roster.reset(2, [RosterEntry(node=node, places=(place,) * 3) for place, node in enumerate(far)])
    assert hops_to_holder(roster, far[0], {far[-1]}, [far[2]]) is None, "farther than any want goes"


def test_a_view_remembers_as_many_retractions_as_the_limit() -> None:
    timeline = Timeline()
    ids = [MsgId(number.to_bytes(32, "big")) for number in range(MAX_REMEMBERED_RETRACTIONS + 1)]
    for msg_id in ids:
        assert timeline.retract(msg_id) is None
    assert [timeline.is_retracted(msg_id) for msg_id in ids[:2]] == [False, True]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1024**2 - 1, "1.0 MiB")),
        *((5 * 1024**3, "5.0 GiB"), (1024**4, "1.0 TiB"), (9 * 1024**5, "9216.0 TiB")),
    ],
)
def test_sizes_in_an_export_are_as_people_read_them(size: int, text: str) -> None:
    assert _size(size) == text


def test_who_was_an_admin_later_was_none_before() -> None:
    pool = Pool()
    pool.bring("ann")
    joined = pool.now_ms
    pool.now_ms += 100
    pool.set_role("founder", "ann", Role.ADMIN)
    promoted = pool.now_ms
    pool.now_ms += 100
    pool.set_role("founder", "ann", Role.MEMBER)
    ann = key_of("ann").device_id
    asked = [(joined - 50, False), (joined, False), (promoted - 1, False), (promoted, True), (pool.now_ms, False)]
    assert [(at, pool.membership.was_admin(ann, make_hlc(at))) for at, _ in asked] == asked


def test_a_server_skips_frames_that_only_later_versions_know() -> None:
    world, maker = SyncWorld(1), PoolMaker()
    founder = Node(maker.founder, maker.pool_id, [maker.genesis])
    client = world.connect(founder)
    later = FrameReceived(client=client, frame=UnknownFrame(95), unix_ms=world.unix_ms)
    assert world.core.handle(later, world.now) == []
    world.run()
    assert founder.is_attached
    assert world.core.handle(later, world.now) == []
    assert founder.is_attached
