"""Who gets a link to a member: judged by what it shows before it has proven anything, and once more after that."""

import random
from typing import Any

import pytest
import trio
from pool_builder import Pool, key_of

from poolnet.errors import LinkClosed, Refused
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Role, Statement, encode_statement
from poolnet.pool.link_keeper import LinkKeeper
from poolnet.pool.member_link import MemberLink
from poolnet.protocol.mesh import Mesh
from poolnet.protocol.rings import Roster
from poolnet.wire.link_frames import Hello, Purpose


@pytest.fixture
def pool() -> Pool:
    return Pool()


def keeper(membership: Membership, now_ms: int) -> LinkKeeper:
    """The founder's; nothing in it is used but who may link."""
    unused: Any = None
    founder = key_of("founder").device_id
    return LinkKeeper(
        nursery=unused,
        endpoint=unused,
        membership=membership,
        self_id=founder,
        machine=Mesh(founder, Roster(), random.Random(1)),
        signal=unused,
        serve=unused,
        unreachable=unused,
        changed=lambda: None,
        corrected_ms=lambda: now_ms,
    )


def hello(pool: Pool, key: DeviceKey, *credentials: Statement) -> Hello:
    return Hello(
        purpose=Purpose.POOL,
        pool_id=pool.pool_id,
        public_key=key.public_key,
        nonce=bytes(32),
        credentials=tuple(encode_statement(statement) for statement in credentials),
    )


def is_let_in(pool: Pool, first: Hello, *, here: Membership | None = None) -> bool:
    """Return what the founder says, who knows what `here` holds."""
    try:
        keeper(pool.membership if here is None else here, pool.now_ms).authorise(first)
    except Refused as refused:
        if refused.code != "not_a_member":
            raise
        return False
    return True


def test_a_newcomer_that_only_the_server_knows_so_far_is_let_in(pool: Pool) -> None:
    invite = pool.invite("founder", "i", uses=1)
    join = pool.join_statement("ann", "i")
    assert is_let_in(pool, hello(pool, key_of("ann"), join, invite))
    assert not pool.membership.is_member(join.author), "it has proven nothing yet"


def test_the_guest_of_a_newcomer_is_let_in_with_the_chain_to_somebody_known(pool: Pool) -> None:
    here = pool.membership.copy()
    pool.invite("founder", "for ann", uses=1)
    pool.join("ann", "for ann")
    pool.invite("ann", "for bob", uses=1)
    pool.join("bob", "for bob", at=1)
    credentials = pool.membership.credentials_of(key_of("bob").device_id)
    first = hello(pool, key_of("bob"))
    assert not is_let_in(pool, first, here=here)
    assert is_let_in(pool, Hello(**{**_fields(first), "credentials": credentials}), here=here)


def test_a_backdated_join_through_an_invite_that_is_used_up_or_has_expired_lets_nobody_in(pool: Pool) -> None:
    used_up = pool.invite("founder", "once", uses=1)
    pool.join("ann", "once")
    expired = pool.invite("founder", "expired", expires=pool.now_ms + 1000)
    pool.now_ms += 2000
    for invite, name in ((used_up, "once"), (expired, "expired")):
        join = pool.join_statement("eve", name, at=2000)
        assert not is_let_in(pool, hello(pool, key_of("eve"), join, invite))


def test_a_guest_of_an_invented_member_is_not_let_in(pool: Pool) -> None:
    invite = pool.invite("founder", "once", uses=1)
    pool.join("ann", "once")
    here = pool.membership.copy()
    invented = pool.join("bob", "once", at=2000)
    own_invite = pool.invite("bob", "own")
    join = pool.join("eve", "own")
    assert not is_let_in(pool, hello(pool, key_of("eve"), join, own_invite, invented, invite), here=here)


def test_credentials_with_nothing_new_cost_no_evaluation(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.bring("eve")
    join = pool.membership.get([pool.membership.state.admissions[key_of("eve").device_id].join_id])
    pool.remove("founder", "eve")
    assert not pool.membership.is_member(key_of("eve").device_id)
    monkeypatch.setattr(Membership, "copy", lambda self: pytest.fail("copied for nothing"))
    first = hello(pool, key_of("eve"))
    assert not is_let_in(pool, Hello(**{**_fields(first), "credentials": tuple(join)}))


class FakeLink:
    """A link that is up; knows its end."""

    def __init__(self, key: DeviceKey) -> None:
        self.peer = key.device_id
        self.peer_credentials = ()
        self.close_code: str | None = None

    def close_now(self, *, code: str, reason: str) -> None:
        self.close_code = code


class NoStatements:
    def from_link(self, encoded: object, link: object) -> None:
        pass


async def test_who_was_removed_between_its_first_frame_and_its_proof_is_turned_away(pool: Pool) -> None:
    pool.bring("ann", role=Role.ADMIN)
    link: Any = FakeLink(key_of("ann"))
    unused: Any = None
    statements: Any = NoStatements()
    member = MemberLink(link, membership=pool.membership, statements=statements, flow=unused, files=unused)
    member.check_peer()
    assert link.close_code is None
    pool.remove("founder", "ann")
    with pytest.raises(LinkClosed):
        member.check_peer()
    assert link.close_code == "not_a_member"
    await trio.lowlevel.checkpoint()


def _fields(first: Hello) -> dict[str, Any]:
    names = ("purpose", "pool_id", "public_key", "nonce", "credentials")
    return {name: getattr(first, name) for name in names}
