"""Who is in the pool: each rule by itself."""

import pytest
from pool_builder import NEVER, Pool, key_of

from poolnet.clock import make_hlc
from poolnet.identity import evaluation
from poolnet.identity import membership as membership_module
from poolnet.identity.membership import Membership, removal_keep
from poolnet.identity.pool_state import MEMBER_RANK
from poolnet.identity.statements import Role, Statement, decode_statement_untrusted, make_genesis, make_invite
from poolnet.ids import DeviceId, PoolId, StatementId
from poolnet.wire.cbor import encode_cbor


@pytest.fixture
def pool() -> Pool:
    return Pool()


def bound(monkeypatch: pytest.MonkeyPatch, *, statements: int, reserved: int = 0) -> None:
    """Let a pool have so many statements, reserves included."""
    monkeypatch.setattr(membership_module, "MAX_STATEMENTS", statements)
    monkeypatch.setattr(membership_module, "RESERVED_STATEMENTS", reserved)


class TestJoining:
    def test_the_founder_is_the_first_member_and_admin(self, pool: Pool) -> None:
        founder = key_of("founder")
        assert pool.names() == {"founder*"}
        assert pool.membership.name == "our pool"
        assert pool.membership.public_key_of(founder.device_id) == founder.public_key
        assert pool.membership.role_of(founder.device_id) == Role.ADMIN
        assert pool.membership.members()[founder.device_id].rank == 0

    def test_who_holds_the_secret_of_an_invite_joins_with_its_role(self, pool: Pool) -> None:
        pool.bring("ann")
        pool.bring("bob", role=Role.ADMIN)
        assert pool.names() == {"founder*", "ann", "bob**"}
        ann = pool.membership.members()[key_of("ann").device_id]
        assert ann.user is not None
        assert ann.user.content.device_name == "ann"
        assert (ann.role, ann.rank) == (Role.MEMBER, MEMBER_RANK)

    def test_a_member_may_invite_members_but_only_an_admin_may_invite_admins(self, pool: Pool) -> None:
        pool.bring("ann")
        pool.bring("bob", "ann")
        pool.bring("cid", "ann", role=Role.ADMIN)
        assert pool.names() == {"founder*", "ann", "bob"}

    def test_an_invite_by_a_stranger_admits_nobody(self, pool: Pool) -> None:
        pool.bring("ann", "eve")
        assert pool.names() == {"founder*"}

    def test_an_invite_admits_as_many_as_it_says_the_first_in_order(self, pool: Pool) -> None:
        pool.invite("founder", "i", uses=2)
        late = pool.join_statement("cid", "i", at=9000)
        pool.add(late)
        pool.join("ann", "i")
        pool.join("bob", "i")
        assert pool.names() == {"founder*", "ann", "bob"}
        state = pool.membership.invite(key_of("i").public_key)
        assert state is not None
        assert (state.uses_left, state.valid, state.role) == (0, True, Role.MEMBER)

    def test_a_join_after_the_expiry_admits_nobody(self, pool: Pool) -> None:
        pool.invite("founder", "i", expires=5000)
        pool.join("ann", "i", at=5000)
        pool.join("bob", "i", at=5001)
        assert pool.names() == {"founder*", "ann"}

    def test_a_newcomer_whose_clock_is_slow_may_join_before_its_invite_was_made(self, pool: Pool) -> None:
        pool.invite("founder", "i")
        pool.join("ann", "i", at=1)
        assert pool.names() == {"founder*", "ann"}

    def test_joining_twice_takes_one_use(self, pool: Pool) -> None:
        pool.invite("founder", "i", uses=2)
        for device in ("ann", "ann", "bob"):
            pool.join(device, "i")
        assert pool.names() == {"founder*", "ann", "bob"}

    def test_statements_may_arrive_before_what_they_depend_on(self) -> None:
        whole = Pool()
        whole.bring("ann")
        whole.bring("bob", "ann")
        backwards = Membership(whole.pool_id)
        for encoded in reversed(whole.membership.statements()):
            assert not backwards.is_member(key_of("bob").device_id)
            assert backwards.add(decode_statement_untrusted(encoded))
        assert backwards.members() == whole.membership.members()

    def test_nobody_falls_by_further_invites_with_the_key_by_which_it_came(self, pool: Pool) -> None:
        """Neither by one of the same author, backdated and expired, nor by one that gives less."""
        pool.bring("eve")
        backdated = pool.now_ms
        pool.invite("eve", "by eve")
        pool.invite("founder", "for admins", role=Role.ADMIN)
        pool.join("ann", "by eve")
        pool.join("bob", "for admins")
        pool.invite("eve", "by eve", expires=1, at=backdated)
        pool.invite("eve", "for admins", at=backdated + 1)
        assert pool.names() == {"founder*", "eve", "ann", "bob**"}

    def test_a_second_invite_with_the_key_of_another_takes_nobody_away(self, pool: Pool) -> None:
        """Eve backdates an invite with the key of somebody else's; when she is removed, who joined stays."""
        pool.bring("eve")
        pool.invite("founder", "i")
        ann = pool.join("ann", "i")
        pool.invite("eve", "i", at=1025)
        assert pool.membership.state.admissions[ann.author].inviter == key_of("eve").device_id
        pool.remove("founder", "eve", keep=())
        assert pool.names() == {"founder*", "ann"}


class TestRemoving:
    def test_an_admin_removes_a_member_for_ever(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("bob")
        pool.remove("ann", "bob")
        assert pool.names() == {"founder*", "ann**"}
        pool.invite("founder", "again")
        assert pool.refusal(pool.join("bob", "again")) == "removed"
        assert pool.names() == {"founder*", "ann**"}
        assert pool.membership.was_member(key_of("bob").device_id)
        assert not pool.membership.was_member(key_of("eve").device_id)

    def test_a_member_that_is_no_admin_removes_nobody(self, pool: Pool) -> None:
        pool.bring("ann")
        pool.bring("bob")
        pool.remove("ann", "bob")
        pool.set_role("ann", "ann", Role.ADMIN)
        assert pool.names() == {"founder*", "ann", "bob"}

    def test_nobody_removes_or_demotes_a_senior_an_equal_or_the_founder(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("bob", role=Role.ADMIN)
        pool.bring("cid", "ann", role=Role.ADMIN)
        for author, device in [("cid", "ann"), ("ann", "bob"), ("ann", "founder")]:
            pool.remove(author, device)
            pool.set_role(author, device, Role.MEMBER)
        assert pool.names() == {"founder*", "ann**", "bob**", "cid***"}

    def test_backdating_to_a_time_before_the_senior_became_one_does_not_help(self, pool: Pool) -> None:
        pool.bring("eve", role=Role.ADMIN)
        pool.set_role("founder", "eve", Role.MEMBER)
        pool.bring("ann")
        pool.invite("ann", "by ann")
        backdated = pool.now_ms
        pool.set_role("founder", "eve", Role.ADMIN)
        pool.now_ms += 100
        pool.set_role("founder", "ann", Role.ADMIN)
        pool.bring("bob", "ann", role=Role.ADMIN)
        pool.remove("bob", "ann", at=backdated)
        pool.remove("eve", "ann", at=backdated + 15)
        assert pool.names() == {"founder*", "eve**", "ann**", "bob***"}

    def test_a_removed_device_that_never_came_is_not_let_in(self, pool: Pool) -> None:
        pool.remove("founder", "eve")
        pool.bring("eve")
        assert pool.names() == {"founder*"}

    def test_what_the_removed_one_did_and_was_seen_stands(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("bob", "ann")
        pool.bring("cid", "ann", role=Role.ADMIN)
        pool.bring("dee")
        pool.remove("ann", "dee")
        pool.remove("founder", "ann")
        assert pool.names() == {"founder*", "bob", "cid***"}

    def test_what_the_removed_one_does_meanwhile_is_void_whatever_time_it_claims(self, pool: Pool) -> None:
        pool.bring("eve", role=Role.ADMIN)
        pool.bring("ann")
        pool.invite("eve", "seen")
        pool.remove("founder", "eve")
        before = pool.names()
        for at in (1, 1015, 1025, None, 10**9):
            pool.remove("eve", "ann", at=at)
            pool.set_role("eve", "ann", Role.ADMIN, at=at)
            pool.invite("eve", f"unseen {at}", at=at)
            pool.join("bob", f"unseen {at}", at=at)
            pool.join("cid", "seen", at=at)
        assert pool.names() == before == {"founder*", "ann"}
        state = pool.membership.invite(key_of("seen").public_key)
        assert state is not None
        assert not state.valid

    def test_the_removed_one_cannot_take_the_place_of_another_by_a_join_of_before(self, pool: Pool) -> None:
        pool.invite("founder", "two of us", uses=1)
        pool.join("ann", "two of us")
        pool.bring("eve")
        pool.remove("founder", "eve")
        pool.join("eve", "two of us", at=1)
        assert pool.names() == {"founder*", "ann"}

    def test_the_removed_one_cannot_have_been_an_admin_all_along(self, pool: Pool) -> None:
        """Eve has a link for admins that she did not use; neither a backdated join nor a second one helps."""
        pool.bring("ann", role=Role.ADMIN)
        pool.invite("founder", "for admins", role=Role.ADMIN)
        pool.bring("eve")
        pool.remove("ann", "eve")
        pool.join("eve", "for admins", at=1)
        pool.remove("eve", "eve", at=pool.now_ms - 25)
        pool.join("eve", "for admins", at=pool.now_ms - 30)
        pool.join("eve", "for admins")
        pool.bring("bob")
        pool.remove("eve", "bob", keep=(), at=2)
        assert pool.names() == {"founder*", "ann**", "bob"}

    def test_a_use_taken_by_who_was_removed_is_not_given_back(self, pool: Pool) -> None:
        pool.bring("ann")
        pool.remove("founder", "ann")
        assert pool.refusal(pool.join_statement("eve", "invite of ann")) == "invite_used_up"
        pool.join("eve", "invite of ann")
        assert pool.names() == {"founder*"}

    @pytest.mark.parametrize("lists_the_join", [True, False])
    def test_a_removal_that_undoes_takes_out_whom_the_removed_one_invited_but_no_senior(
        self, pool: Pool, lists_the_join: bool
    ) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("eve")
        pool.bring("bob", "eve")
        pool.bring("cid", "eve")
        pool.set_role("founder", "cid", Role.ADMIN)
        keep = removal_keep(pool.membership, key_of("eve").device_id, undo=True)
        pool.remove("ann", "eve", keep=keep if lists_the_join else ())
        assert pool.names() == {"founder*", "ann**", "cid**"}
        refusal = pool.refusal(pool.join_statement("dee", "invite of eve"))
        assert refusal == ("invite_used_up" if lists_the_join else None)

    def test_a_senior_stays_in_when_those_fall_through_whom_it_came(self, pool: Pool) -> None:
        """Ann undoes Eve, who invited Bob, who invited Cid, who is as senior as Ann by now."""
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("eve")
        pool.bring("bob", "eve")
        pool.bring("cid", "bob")
        pool.set_role("founder", "cid", Role.ADMIN)
        pool.remove("ann", "eve", keep=())
        assert pool.names() == {"founder*", "ann**", "cid**"}

    def test_the_promotion_by_a_senior_weighs_more_than_a_removal_at_the_same_time(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("bob")
        pool.remove("ann", "bob")
        pool.set_role("founder", "bob", Role.ADMIN)
        assert pool.names() == {"founder*", "ann**", "bob**"}
        pool.remove("founder", "bob")
        assert pool.names() == {"founder*", "ann**"}

    def test_of_two_who_remove_each_other_the_senior_wins(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("bob", "ann", role=Role.ADMIN)
        pool.remove("bob", "ann", at=pool.now_ms)
        pool.remove("ann", "bob", keep=())
        assert pool.names() == {"founder*", "ann**"}


class TestRoles:
    def test_an_admin_makes_admins_of_the_next_rank(self, pool: Pool) -> None:
        for device in ("ann", "bob", "cid"):
            pool.bring(device)
        pool.set_role("founder", "ann", Role.ADMIN)
        pool.set_role("ann", "bob", Role.ADMIN)
        pool.set_role("cid", "cid", Role.ADMIN)
        assert pool.names() == {"founder*", "ann**", "bob***", "cid"}

    def test_a_promotion_by_a_junior_does_not_lower_a_rank_and_one_by_a_senior_raises_it(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("bob", "ann", role=Role.ADMIN)
        pool.set_role("bob", "ann", Role.ADMIN)
        assert pool.names() == {"founder*", "ann**", "bob***"}
        pool.set_role("founder", "bob", Role.ADMIN)
        assert pool.names() == {"founder*", "ann**", "bob**"}

    def test_a_demoted_admin_stays_a_member_and_keeps_what_members_may(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("bob", "ann", role=Role.ADMIN)
        pool.invite("ann", "for admins", role=Role.ADMIN)
        pool.invite("ann", "for members")
        pool.set_role("founder", "ann", Role.MEMBER)
        pool.join("cid", "for admins")
        pool.join("dee", "for members")
        pool.bring("eve", "ann")
        assert pool.names() == {"founder*", "ann", "bob***", "dee", "eve"}

    def test_what_a_demoted_admin_does_as_one_meanwhile_is_void_whatever_time_it_claims(self, pool: Pool) -> None:
        pool.bring("eve", role=Role.ADMIN)
        pool.bring("ann")
        pool.set_role("founder", "eve", Role.MEMBER)
        for at in (1, 1025, 10**9):
            pool.remove("eve", "ann", at=at)
            pool.set_role("eve", "ann", Role.ADMIN, at=at)
            pool.invite("eve", f"unseen {at}", role=Role.ADMIN, at=at)
            pool.join("bob", f"unseen {at}", at=at)
        assert pool.names() == {"founder*", "eve", "ann"}

    def test_a_demoted_admin_that_is_promoted_again_may_act_again(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("bob")
        pool.set_role("founder", "ann", Role.MEMBER)
        pool.set_role("founder", "ann", Role.ADMIN)
        pool.remove("ann", "bob")
        assert pool.names() == {"founder*", "ann**"}

    def test_an_admin_may_step_down(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.bring("bob", "ann", role=Role.ADMIN)
        pool.set_role("ann", "ann", Role.MEMBER)
        pool.set_role("founder", "founder", Role.MEMBER)  # who founded a pool remains its founder
        assert pool.names() == {"founder*", "ann", "bob***"}


class TestBranches:
    """What is stated by a member that an admin let in, and by all whom it brought in, is bounded together."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(evaluation, "MAX_BRANCH_STATEMENTS", 6)

    def test_a_member_brings_in_no_more_than_its_branch_may_hold(self, pool: Pool) -> None:
        pool.bring("ann")
        pool.invite("ann", "i")
        for device in ("bob", "cid", "dee", "eve"):
            pool.join(device, "i")
        assert pool.names() == {"founder*", "ann", "bob", "cid", "dee", "eve"}
        late = pool.join_statement("late", "i")
        assert pool.refusal(late) == "invite_used_up"
        pool.add(late)
        pool.invite("bob", "j")
        assert late.author not in pool.membership.members()
        assert pool.membership.invite(key_of("j").public_key) is None

    def test_guests_of_guests_count_and_guests_of_admins_do_not(self, pool: Pool) -> None:
        pool.bring("ann")
        pool.bring("bob", "ann")
        pool.bring("cid", "bob")
        for number in range(20):
            pool.bring(f"guest {number}", "founder")
            pool.bring(f"sybil {number}", "cid")
        assert len(pool.membership.members()) == 4 + 20
        pool.bring("dee", "guest 3")
        assert key_of("dee").device_id in pool.membership.members()

    def test_who_fills_a_branch_throws_out_no_admin_that_came_in_by_it(self, pool: Pool) -> None:
        pool.bring("eve")
        before = pool.now_ms
        pool.bring("ann", "eve")
        pool.bring("bob", "eve")
        pool.set_role("founder", "ann", Role.ADMIN)
        for number in range(20):
            pool.invite("eve", f"junk {number}", at=before)
        assert pool.names() == {"founder*", "eve", "ann**"}
        pool.remove("founder", "eve", keep=())
        assert pool.names() == {"founder*"}

    def test_what_a_removal_voids_does_not_count(self, pool: Pool) -> None:
        pool.bring("eve")
        before = pool.now_ms
        pool.bring("bob", "eve")
        keep = removal_keep(pool.membership, key_of("eve").device_id)
        for number in range(20):
            pool.invite("eve", f"junk {number}", at=before)
        assert pool.names() == {"founder*", "eve"}
        pool.remove("founder", "eve", keep=keep)
        assert pool.names() == {"founder*", "bob"}

    def test_an_invite_without_room_keeps_nobody_from_joining_by_another_with_its_key(self, pool: Pool) -> None:
        pool.bring("eve")
        pool.invite("eve", "i")
        pool.invite("founder", "i")
        for number in range(10):
            pool.join(f"guest {number}", "i")
        assert len(pool.membership.members()) == 12


class TestLeaving:
    def test_who_leaves_is_out_and_what_it_did_stands(self, pool: Pool) -> None:
        pool.bring("ann")
        pool.bring("bob", "ann")
        pool.remove("ann", "ann", keep=())
        assert pool.names() == {"founder*", "bob"}
        pool.bring("cid", "ann")
        assert pool.names() == {"founder*", "bob"}

    def test_who_left_may_join_again_but_not_by_the_join_of_before(self, pool: Pool) -> None:
        pool.invite("founder", "i")
        old = pool.join_statement("ann", "i")
        first = pool.join("ann", "i")
        pool.remove("ann", "ann")
        assert pool.refusal(first) == "not_a_member"
        pool.add(old)
        assert pool.names() == {"founder*"}
        again = pool.join_statement("ann", "i")
        assert pool.refusal(again) is None
        pool.add(again)
        assert pool.names() == {"founder*", "ann"}

    def test_even_the_founder_may_leave(self, pool: Pool) -> None:
        pool.bring("ann", role=Role.ADMIN)
        pool.remove("founder", "founder")
        pool.remove("founder", "ann")
        assert pool.names() == {"ann**"}
        assert pool.membership.was_member(key_of("founder").device_id)


class TestCheckJoin:
    def test_a_join_that_would_admit_passes_and_does_so_again_once_it_has(self, pool: Pool) -> None:
        pool.invite("founder", "i", uses=1)
        join = pool.join_statement("ann", "i")
        assert pool.refusal(join) is None
        pool.add(join)
        assert pool.refusal(join) is None
        assert pool.refusal(pool.join_statement("bob", "i")) == "invite_used_up"

    def test_the_time_of_the_judge_counts_as_well_as_that_of_the_joiner(self, pool: Pool) -> None:
        pool.invite("founder", "i", expires=5000)
        assert pool.refusal(pool.join_statement("ann", "i", at=4000), unix_ms=5000) is None
        assert pool.refusal(pool.join_statement("ann", "i", at=4000), unix_ms=5001) == "invite_expired"
        assert pool.refusal(pool.join_statement("ann", "i", at=5001), unix_ms=4000) == "invite_expired"

    def test_an_invite_that_is_not_known_or_whose_author_is_gone_is_refused(self, pool: Pool) -> None:
        pool.bring("ann")
        pool.invite("ann", "i")
        assert pool.refusal(pool.join_statement("bob", "no such")) == "invite_unknown"
        assert pool.refusal(pool.genesis) is None  # the founder is in
        pool.remove("founder", "ann")
        assert pool.refusal(pool.join_statement("bob", "i")) == "invite_unknown"
        assert pool.refusal(pool.join_statement("ann", "i")) == "removed"


class TestTheSetOfStatements:
    def test_adding_is_idempotent_and_ids_tell_what_is_missing(self, pool: Pool) -> None:
        invite = pool.bring("ann")
        assert not pool.membership.add(invite)
        assert len(pool.membership) == len(pool.membership.ids()) == 3
        unknown = StatementId(bytes(32))
        assert pool.membership.missing([invite.statement_id, unknown]) == (unknown,)
        assert pool.membership.get([unknown, invite.statement_id]) == [pool.membership.statements()[1]]

    def test_a_statement_of_another_pool_or_without_its_signature_is_not_taken(self, pool: Pool) -> None:
        other = make_genesis(key_of("eve"), name="x", nonce=bytes(16), hlc=make_hlc(0))
        assert not pool.membership.add(other)
        join = pool.join_statement("ann", "i")
        forged = decode_statement_untrusted(encode_cbor([join.signed, [join.signatures[0], bytes(64)]]))
        assert not pool.membership.add(forged)
        assert len(pool.membership) == 1

    def test_a_kind_of_a_newer_version_is_passed_on_and_has_no_effect(self, pool: Pool) -> None:
        signed = encode_cbor(
            ["poolnet statement 1", "newer", pool.pool_id, 5, key_of("founder").public_key, encode_cbor([1])]
        )
        encoded = encode_cbor([signed, [key_of("founder").sign(signed)]])
        pool.add(decode_statement_untrusted(encoded))
        assert encoded in pool.membership.statements()
        assert pool.names() == {"founder*"}

    def test_without_its_genesis_a_pool_has_no_name_and_no_members(self) -> None:
        empty = Membership(PoolId(bytes(32)))
        assert empty.name == ""
        assert not empty.members()
        assert empty.public_key_of(DeviceId(bytes(32))) is empty.role_of(DeviceId(bytes(32))) is None
        assert empty.invite(key_of("i").public_key) is None

    def test_a_copy_is_independent(self, pool: Pool) -> None:
        candidate = pool.membership.copy()
        pool.invite("founder", "i")
        assert len(candidate) == 1
        candidate.add(pool.join_statement("ann", "i"))
        assert len(pool.membership) == 2

    def test_credentials_are_the_join_its_invite_and_those_of_the_inviter(self, pool: Pool) -> None:
        pool.bring("ann")
        pool.bring("bob", "ann")
        pool.bring("cid", "bob")
        credentials = pool.membership.credentials_of(key_of("cid").device_id)
        assert len(credentials) == 4
        stranger = Membership(pool.pool_id)
        for encoded in [*pool.membership.credentials_of(key_of("ann").device_id), *credentials]:
            stranger.add(decode_statement_untrusted(encoded))
        stranger.add(pool.genesis)
        assert stranger.members() == pool.membership.members()
        assert pool.membership.credentials_of(key_of("founder").device_id) == (pool.membership.statements()[0],)
        assert pool.membership.credentials_of(key_of("eve").device_id) == ()

    def test_a_full_set_forgets_what_has_no_effect_and_then_takes_no_more(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bound(monkeypatch, statements=5)
        for number in range(4):
            pool.invite("eve", f"noise {number}")
        assert pool.membership.missing([StatementId(bytes(32))]) == (StatementId(bytes(32)),)
        pool.bring("ann")
        pool.bring("bob")
        assert len(pool.membership) == 5
        assert pool.names() == {"founder*", "ann", "bob"}
        assert pool.membership.missing([StatementId(bytes(32))]) == ()
        assert not pool.membership.add(pool.join_statement("cid", "i"))

    def test_what_is_missing_is_asked_for_once_and_junk_does_not_keep_it_out(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bound(monkeypatch, statements=5)
        for number in range(4):
            pool.invite("eve", f"noise {number}")
        wanted = StatementId(bytes(32))
        assert pool.membership.missing([wanted, pool.genesis.statement_id, wanted]) == (wanted,)

    def test_a_statement_that_is_asked_for_twice_is_given_once(self, pool: Pool) -> None:
        assert len(pool.membership.get([pool.genesis.statement_id] * 1000)) == 1

    def test_once_something_had_to_be_forgotten_others_are_told_only_of_what_makes_a_difference(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("poolnet.identity.membership.MAX_STATEMENTS", 12)
        monkeypatch.setattr("poolnet.identity.membership.RESERVED_STATEMENTS", 2)
        junk = [pool.join_statement(f"stranger {number}", "no invite") for number in range(40)]
        told = [len(pool.membership.news([item])) for item in junk if pool.membership.add(item)]
        assert len(told) == 40
        assert told == sorted(told, reverse=True)
        assert sum(told) == 7, "until the set was full for the first time"
        copy = pool.membership.copy()
        assert pool.membership.news([pool.bring("ann")]) != []
        assert copy.news([junk[-1]]) == []

    def test_who_fills_a_pool_can_be_removed_and_that_makes_room(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool.bring("eve")
        pool.bring("ann", role=Role.ADMIN)
        bound(monkeypatch, statements=20, reserved=2)
        full = False
        for number in range(30):
            full = not pool.membership.add(self.an_invite("eve", number, pool))
        assert full
        assert pool.refusal(join := pool.join_statement("bob", "invite of bob")) == "invite_unknown"
        assert not pool.membership.add(join)
        keep = removal_keep(pool.membership, key_of("eve").device_id, undo=True)
        pool.remove("ann", "eve", keep=keep)  # her statements and the founder's find room
        pool.bring("bob")
        assert pool.names() == {"founder*", "ann**", "bob"}
        assert pool.membership.was_member(key_of("eve").device_id)

    def test_an_admin_that_fills_a_pool_leaves_room_for_its_removal_by_the_founder(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool.bring("eve", role=Role.ADMIN)
        bound(monkeypatch, statements=20, reserved=2)
        added = [pool.membership.add(self.an_invite("eve", number, pool)) for number in range(30)]
        assert sum(added) == 15
        assert len(pool.membership) == 18
        pool.remove("founder", "eve", keep=())
        pool.bring("bob")
        assert pool.names() == {"founder*", "bob"}
        assert len(pool.membership) < 8

    def test_members_that_had_to_refuse_different_statements_agree_once_there_is_room(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool.bring("eve")
        bound(monkeypatch, statements=12, reserved=1)
        made = [self.an_invite("eve", number, pool) for number in range(20)]
        made += [pool.invite("founder", "i"), pool.join_statement("bob", "i")]
        sides = [pool.membership, pool.membership.copy()]
        for side, statements in zip(sides, (made, made[::-1]), strict=True):
            for statement in statements:
                side.add(statement)
        assert set(sides[0].ids()) != set(sides[1].ids())
        keep = removal_keep(pool.membership, key_of("eve").device_id, undo=True)
        removal = pool.remove("founder", "eve", keep=keep)
        sides[1].add(removal)
        for one, other in (sides, sides[::-1]):
            for encoded in other.get(one.missing(other.ids())):
                one.add(decode_statement_untrusted(encoded))
        assert sides[0].members() == sides[1].members()
        assert pool.names() == {"founder*", "bob"}

    def an_invite(self, author: str, number: int, pool: Pool) -> Statement:
        return make_invite(
            key_of(author),
            pool_id=pool.pool_id,
            invite_key=key_of(f"junk {number}").public_key,
            expires_unix_ms=NEVER,
            hlc=pool.hlc(),
        )

    def test_the_bytes_of_all_statements_are_bounded_too(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        pool.bring("ann")
        monkeypatch.setattr(membership_module, "MAX_STATEMENTS_SIZE", 500)
        monkeypatch.setattr(membership_module, "RESERVED_STATEMENTS_SIZE", 0)
        assert not pool.membership.add(pool.join_statement("bob", "i"))

    def test_more_than_a_removal_can_list_is_cut_at_the_newest(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(membership_module, "MAX_KEPT_STATEMENTS", 3)
        pool.invite("founder", "for ann")
        join = pool.join("ann", "for ann")
        invite = pool.invite("ann", "i")
        joins = [pool.join(device, "i") for device in ("bob", "cid")]
        kept = tuple(statement.statement_id for statement in (join, invite, joins[0]))
        assert removal_keep(pool.membership, key_of("ann").device_id) == kept
