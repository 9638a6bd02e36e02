"""Who is in the pool, where rules meet: sanctions that hit each other, places that are the same, the last of a kind."""

import pytest
from pool_builder import NEVER, Pool, key_of

from poolnet.clock import Hlc
from poolnet.errors import TextTooLong
from poolnet.identity import evaluation, membership
from poolnet.identity.membership import removal_keep
from poolnet.identity.statements import Role, Statement, make_genesis, make_invite
from poolnet.limits import MAX_NAME_CHARS
from poolnet.wire.cbor import decode_cbor_untrusted


@pytest.fixture
def pool() -> Pool:
    """The founder, the admins ann and bob, and cid."""
    pool = Pool()
    pool.bring("ann", role=Role.ADMIN)
    pool.bring("bob", role=Role.ADMIN)
    pool.bring("cid")
    return pool


def test_what_a_removed_admin_backdates_to_before_it_stepped_down_is_void(pool: Pool) -> None:
    """Its rank there is that of the one who removed it; what a removal voids does not count beside it."""
    before = pool.now_ms + 5
    pool.now_ms += 100
    pool.set_role("bob", "bob", Role.MEMBER)
    pool.remove("ann", "bob")
    pool.remove("bob", "cid", at=before)
    assert pool.names() == {"founder*", "ann**", "cid"}


def test_what_a_demoted_admin_backdates_to_before_it_stepped_down_is_void(pool: Pool) -> None:
    before = pool.now_ms + 5
    pool.now_ms += 100
    pool.set_role("bob", "bob", Role.MEMBER)
    pool.set_role("ann", "bob", Role.MEMBER)
    pool.remove("bob", "cid", at=before)
    assert pool.names() == {"founder*", "ann**", "bob", "cid"}


def test_a_demotion_that_lets_nothing_stand_does_not_undo_how_its_target_came_in(pool: Pool) -> None:
    pool.set_role("founder", "bob", Role.MEMBER, keep=())
    assert pool.names() == {"founder*", "ann**", "bob", "cid"}


def test_what_is_written_at_the_very_place_of_leaving_is_part_of_the_history(pool: Pool) -> None:
    left = pool.remove("cid", "cid").hlc
    removed = pool.remove("founder", "bob").hlc
    for name, hlc in (("cid", left), ("bob", removed)):
        device = key_of(name).device_id
        assert pool.membership.may_have_written(device, hlc)
        assert not pool.membership.may_have_written(device, hlc + 1)
    assert not pool.membership.may_have_written(key_of("eve").device_id, 0)


def test_of_two_invites_with_one_key_the_first_that_has_uses_left_is_told(pool: Pool) -> None:
    first = pool.invite("founder", "i", uses=1)
    second = pool.invite("ann", "i")
    key = key_of("i").public_key
    told = pool.membership.invite(key)
    assert told is not None
    assert (told.invite_id, told.uses_left) == (first.statement_id, 1)
    pool.join("eve", "i")
    told = pool.membership.invite(key)
    assert told is not None
    assert (told.invite_id, told.uses_left) == (second.statement_id, None)


def test_one_statement_more_than_a_branch_may_hold_does_not_count(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MAX_BRANCH_STATEMENTS", 3)
    pool.invite("cid", "i")  # after the Join of cid the second
    pool.join("dee", "i")
    assert "dee" in pool.names()
    pool.join("eve", "i")
    assert pool.names() == {"founder*", "ann**", "bob**", "cid", "dee"}


def test_a_pool_is_full_at_the_very_byte_of_its_limit(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(
        len(signed) + sum(map(len, signatures)) for signed, signatures in map(opened, pool.membership.statements())
    )
    monkeypatch.setattr(membership, "RESERVED_STATEMENTS_SIZE", 0)
    monkeypatch.setattr(membership, "MAX_STATEMENTS_SIZE", size)
    invites = [an_invite(pool, number) for number in range(2)]
    assert not pool.membership.add(invites[0])
    monkeypatch.setattr(membership, "MAX_STATEMENTS_SIZE", size + 1)
    assert pool.membership.add(invites[0])
    assert not pool.membership.add(invites[1])


@pytest.mark.parametrize(("author", "reserves"), [("founder", 0), ("ann", 1), ("cid", 2)])
def test_the_reserves_of_bytes_that_an_author_leaves_alone_begin_at_the_very_byte(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, author: str, reserves: int
) -> None:
    size = sum(
        len(signed) + sum(map(len, signatures)) for signed, signatures in map(opened, pool.membership.statements())
    )
    monkeypatch.setattr(membership, "RESERVED_STATEMENTS_SIZE", 1000)
    monkeypatch.setattr(membership, "MAX_STATEMENTS_SIZE", size + 1000 * reserves)
    invite = an_invite(pool, 1, author=author)
    assert not pool.membership.add(invite)
    monkeypatch.setattr(membership, "MAX_STATEMENTS_SIZE", size + 1000 * reserves + 1)
    assert pool.membership.add(invite)


def test_of_joins_that_wait_for_their_invite_those_too_late_for_it_wait_for_the_next() -> None:
    pool = Pool()
    pool.join("ann", "i", at=2000)
    pool.join("dee", "i", at=2100)
    pool.join("eve", "i", at=2200)
    pool.invite("founder", "i", at=3000, expires=2050)
    assert pool.names() == {"founder*", "ann"}
    pool.invite("founder", "i", at=4000, uses=1)
    assert pool.names() == {"founder*", "ann", "dee"}
    pool.invite("founder", "i", at=5000)
    assert pool.names() == {"founder*", "ann", "dee", "eve"}


def test_joins_that_an_invite_does_not_admit_wait_for_the_next_with_its_key(pool: Pool) -> None:
    guests = [pool.join("dee", "i", at=2000).statement_id, pool.join("eve", "i", at=2100).statement_id]
    invite = pool.invite("bob", "i", at=3000)
    assert pool.names() == {"founder*", "ann**", "bob**", "cid", "dee", "eve"}
    keep = set(removal_keep(pool.membership, key_of("bob").device_id))
    assert {invite.statement_id, *guests} <= keep
    pool.remove("founder", "bob", keep=tuple(sorted(keep.difference(guests))))
    assert pool.names() == {"founder*", "ann**", "cid"}, "the invite stands, for nobody"
    pool.invite("founder", "i", at=4000)
    assert pool.names() == {"founder*", "ann**", "cid", "dee", "eve"}


def test_of_a_removed_device_that_came_and_went_again_and_again_only_the_latest_hundred_are_kept(pool: Pool) -> None:
    pool.invite("founder", "i")
    stated: list[Statement] = []
    for _ in range(60):
        stated += [pool.join("eve", "i"), pool.remove("eve", "eve", keep=())]
    pool.remove("founder", "eve", keep=())
    kept = [item for item in stated if item.statement_id in pool.membership.state.relevant]
    assert kept == stated[-100:]


def test_stepping_down_and_leaving_are_among_what_one_stated(pool: Pool) -> None:
    own = [pool.set_role("bob", "bob", Role.MEMBER), pool.remove("cid", "cid")]
    assert pool.membership.effective_statements()[-2:] == own
    assert own[0].statement_id in removal_keep(pool.membership, key_of("bob").device_id)


def test_who_went_is_told_with_the_place_after_which_nothing_of_it_counts(pool: Pool) -> None:
    left, removed = pool.remove("cid", "cid"), pool.remove("founder", "bob")
    gone = {key_of("cid").device_id: left.hlc, key_of("bob").device_id: removed.hlc}
    assert pool.membership.gone() == gone


def test_joins_that_wait_for_each_other_are_taken_in_any_order_and_those_too_late_are_not(pool: Pool) -> None:
    """cid brought dee, and dee invites eve: a stranger is shown the joins in the wrong order."""
    judge = pool.membership.copy()
    shown = [
        *(pool.invite("cid", "for dee"), pool.join("dee", "for dee")),
        *(pool.invite("dee", "for eve", expires=5_000), pool.join("eve", "for eve")),
    ]
    for unix_ms, expected in ((5_001, {"dee"}), (5_000, {"dee", "eve"})):
        copy = judge.copy()
        copy.add_in_time(reversed(shown), unix_ms)
        assert {name for name in ("dee", "eve") if copy.is_member(key_of(name).device_id)} == expected


def test_a_pool_name_may_be_as_long_as_the_limit() -> None:
    for name in ("x", "x" * MAX_NAME_CHARS):
        assert make_genesis(key_of("founder"), name=name, nonce=bytes(16), hlc=Hlc(1)).body is not None
    with pytest.raises(TextTooLong):
        make_genesis(key_of("founder"), name="x" * (MAX_NAME_CHARS + 1), nonce=bytes(16), hlc=Hlc(1))


def an_invite(pool: Pool, number: int, *, author: str = "founder") -> Statement:
    return make_invite(
        key_of(author),
        pool_id=pool.pool_id,
        invite_key=key_of(f"junk {number}").public_key,
        expires_unix_ms=NEVER,
        hlc=pool.hlc(),
    )


def opened(encoded: bytes) -> tuple[bytes, list[bytes]]:
    signed, signatures = decode_cbor_untrusted(encoded, max_size=10_000)
    return signed, signatures
