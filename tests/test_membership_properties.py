"""Membership for any statements in any order: agreement, a plain model, and an adversary that gains nothing."""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pool_builder import NAMES, NEVER, Pool, key_of

from poolnet import limits
from poolnet.identity import evaluation
from poolnet.identity.membership import Membership, removal_keep
from poolnet.identity.pool_state import MEMBER_RANK, PoolState
from poolnet.identity.statements import Role, Statement

ALL_NAMES = ["founder", *NAMES]
names = st.sampled_from(ALL_NAMES)
roles = st.sampled_from(Role)
times = st.integers(990, 1060)
actions = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["invite", "join", "join", "remove", "set_role"]),
        "author": names,
        "device": names,
        "invite": st.sampled_from(["i", "j", "k", "own"]),
        "role": roles,
        "uses": st.none() | st.integers(1, 2),
        "expires": st.sampled_from([1030, NEVER]),
        "at": times,
        "keep": st.lists(st.integers(0, 40), max_size=6),
    }
)


class Soup(Pool):
    """A pool to which anything may be stated by anybody, at any time."""

    def __init__(self) -> None:
        self.made: list[Statement] = []
        super().__init__()
        self.made.append(self.genesis)

    def add(self, statement: Statement) -> Statement:
        self.made.append(statement)
        self.membership.add(statement)
        return statement

    def act(self, action: dict[str, Any]) -> None:
        author, at, invite = action["author"], action["at"], action["invite"]
        keep = tuple(self.made[place % len(self.made)].statement_id for place in action["keep"])
        match action["kind"]:
            case "invite":
                role, uses, expires = action["role"], action["uses"], action["expires"]
                own = f"own {author}" if invite == "own" else invite
                self.invite(author, own, role=role, uses=uses, expires=expires, at=at)
            case "join":
                self.join(author, f"own {action['device']}" if invite == "own" else invite, at=at)
            case "remove":
                self.remove(author, action["device"], keep=keep, at=at)
            case "set_role":
                self.set_role(author, action["device"], action["role"], keep=keep, at=at)


@st.composite
def soups(draw: st.DrawFn) -> Soup:
    """A start that gets somewhere, then anything."""
    soup = Soup()
    for invite in ("i", "j", "k"):
        soup.invite("founder", invite, role=draw(roles), at=1000)
    for name in NAMES:
        soup.join(name, draw(st.sampled_from(["i", "j", "k"])), at=draw(times))
    for action in draw(st.lists(actions, max_size=20)):
        soup.act(action)
    return soup


@pytest.fixture(params=[2, limits.MAX_BRANCH_STATEMENTS], ids=["tight branches", "wide branches"])
def branch_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How much counts in a branch: so little that most of what members state does not, or all."""
    monkeypatch.setattr(evaluation, "MAX_BRANCH_STATEMENTS", request.param)
    return int(request.param)


examples = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.usefixtures("branch_size")
class TestAgreement:
    @examples
    @given(soup=soups(), rng=st.randoms(use_true_random=False))
    def test_the_order_of_arrival_makes_no_difference(self, soup: Soup, rng: random.Random) -> None:
        shuffled = soup.made[:]
        rng.shuffle(shuffled)
        other = Membership(soup.pool_id)
        for statement in shuffled:
            other.add(statement)
            if rng.random() < 0.2:
                assert other.state is other.state  # an evaluation on the way leaves no trace
        assert set(other.ids()) == set(soup.membership.ids())
        assert other.statements() == soup.membership.statements()
        assert comparable(other.state) == comparable(soup.membership.state)

    @examples
    @given(soup=soups())
    def test_whatever_is_stated_some_things_hold(self, soup: Soup) -> None:
        state = soup.membership.state
        assert not set(state.members) & (set(state.removed) | set(state.left))
        assert set(state.members) <= state.entered
        assert key_of("founder").device_id not in state.removed
        assert state.effective <= set(soup.membership.ids())
        for device, member in state.members.items():
            assert (member.role == Role.ADMIN) == (member.rank < MEMBER_RANK)
            assert soup.membership.credentials_of(device)

    @examples
    @given(soup=soups())
    def test_what_is_not_relevant_can_be_forgotten_without_a_difference_to_who_is_in(self, soup: Soup) -> None:
        smaller = without_what_makes_no_difference(soup)
        assert dict(smaller.members()) == dict(soup.membership.members())
        assert smaller.state.removed == soup.membership.state.removed


class TestWhatARemovalVoidsIsForgotten:
    """... but not that by which the removal was judged: found by many more examples than run here."""

    def check(self, soup: Soup) -> None:
        state = without_what_makes_no_difference(soup).state
        assert state.removed == soup.membership.state.removed
        assert set(state.removed) == {key_of("eve").device_id}
        assert state.members == soup.membership.state.members

    def test_an_admin_had_stepped_down(self) -> None:
        soup = Soup()
        soup.invite("founder", "i", role=Role.ADMIN)
        for name in ("eve", "dee"):
            soup.join(name, "i")
        soup.set_role("eve", "eve", Role.MEMBER, keep=())
        soup.remove("dee", "eve", keep=())
        self.check(soup)

    def test_an_earlier_join_had_hidden_one_as_an_admin(self) -> None:
        soup = Soup()
        soup.invite("founder", "member")
        soup.invite("founder", "admin", role=Role.ADMIN)
        soup.join("dee", "admin")
        soup.join("eve", "member")
        late = soup.join("eve", "admin")
        soup.remove("dee", "eve", keep=(late.statement_id,))
        self.check(soup)

    def test_the_removed_one_had_made_an_admin_of_who_removed_it(self) -> None:
        soup = Soup()
        soup.bring("eve", role=Role.ADMIN)
        soup.bring("dee", "eve")
        soup.set_role("eve", "dee", Role.ADMIN)
        soup.set_role("eve", "eve", Role.MEMBER, keep=())
        soup.remove("dee", "eve", keep=())
        self.check(soup)

    def test_all_else_that_it_stated_goes(self) -> None:
        soup = Soup()
        soup.bring("eve")
        for number in range(20):
            soup.bring(f"sybil {number}", "eve")
        soup.remove("founder", "eve", keep=())
        assert len(without_what_makes_no_difference(soup)) <= 4
        self.check(soup)


class TestAnAdversary:
    @settings(max_examples=150, deadline=None)
    @given(soups(), st.lists(actions, min_size=1, max_size=15), st.booleans())
    def test_who_was_removed_by_the_founder_changes_nothing_whatever_it_states_at_whatever_time(
        self, soup: Soup, attack: list[dict[str, Any]], keeps: bool
    ) -> None:
        device = key_of("eve").device_id
        keep = removal_keep(soup.membership, device, undo=not keeps)
        soup.remove("founder", "eve", keep=keep, at=2000)
        founder = soup.membership.members().get(key_of("founder").device_id)
        assume(founder is not None and founder.rank == 0)  # it may have left, and come again as somebody else's equal
        before = comparable(soup.membership.state, without_invites=True)
        for number, action in enumerate(attack):
            soup.act({**action, "author": "eve"})
            soup.join(f"puppet {number}", "own eve", at=action["at"])
        assert comparable(soup.membership.state, without_invites=True) == before

    @settings(max_examples=100, deadline=None)
    @given(soups(), st.lists(actions, min_size=1, max_size=15))
    def test_a_stranger_changes_nothing(self, soup: Soup, attack: list[dict[str, Any]]) -> None:
        before = comparable(soup.membership.state)
        for action in attack:
            if action["kind"] != "join":
                soup.act({**action, "author": "stranger"})
            soup.join("stranger", "a secret that is in no invite", at=action["at"])
        assert comparable(soup.membership.state) == before


class HonestHistory(RuleBasedStateMachine):
    """One statement after the other, each by somebody who has seen all before: as plain as the model."""

    @initialize()
    def found(self) -> None:
        self.pool = Pool()
        self.ranks = {"founder": 0}
        self.removed: set[str] = set()
        self.invites: dict[str, dict[str, Any]] = {}

    @rule(author=names, role=roles, uses=st.none() | st.integers(1, 2), lifetime=st.sampled_from([50, 10**6]))
    def invite(self, author: str, role: Role, uses: int | None, lifetime: int) -> None:
        name = f"invite {len(self.invites)}"
        self.pool.invite(author, name, role=role, uses=uses, expires=self.pool.now_ms + lifetime)
        rank = self.ranks.get(author)
        if rank is not None and (role == Role.MEMBER or rank < MEMBER_RANK):
            self.invites[name] = {
                "author": author,
                "rank": rank + 1 if role == Role.ADMIN else MEMBER_RANK,
                "uses": uses,
                "expires": self.pool.now_ms - 10 + lifetime,
                "stopped_by": [],
            }

    @precondition(lambda self: self.invites)
    @rule(device=names, data=st.data())
    def join(self, device: str, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.invites)))
        self.pool.join(device, name)
        invite = self.invites[name]
        if (
            device not in self.ranks
            and device not in self.removed
            and not invite["stopped_by"]
            and invite["uses"] != 0
            and self.pool.now_ms <= invite["expires"]
        ):
            self.enter(device, invite["rank"])
            if invite["uses"] is not None:
                invite["uses"] -= 1

    @rule(author=names, device=names)
    def promote(self, author: str, device: str) -> None:
        if device in self.removed:
            return
        self.pool.set_role(author, device, Role.ADMIN)
        if device in self.ranks and self.ranks.get(author, MEMBER_RANK) + 1 < self.ranks[device]:
            self.enter(device, self.ranks[author] + 1)

    @rule(author=names, device=names)
    def demote(self, author: str, device: str) -> None:
        if device not in self.ranks:
            return
        self.pool.set_role(author, device, Role.MEMBER)
        rank = self.ranks.get(author, MEMBER_RANK)
        if rank < self.ranks[device]:
            self.ranks[device] = MEMBER_RANK
            for invite in self.invites.values():
                if invite["author"] == device and invite["rank"] < MEMBER_RANK:
                    invite["stopped_by"].append(rank)
        elif author == device and 0 < rank < MEMBER_RANK:
            self.ranks[device] = MEMBER_RANK

    @rule(author=names, device=names)
    def remove(self, author: str, device: str) -> None:
        if device not in self.ranks:
            return
        self.pool.remove(author, device)
        if author == device:
            del self.ranks[device]
        elif self.ranks.get(author, MEMBER_RANK) < self.ranks[device]:
            del self.ranks[device]
            self.removed.add(device)
            for invite in self.invites.values():
                if invite["author"] == device:
                    invite["stopped_by"].append(-1)

    def enter(self, device: str, rank: int) -> None:
        """Give a rank. One that is at least as senior as who demoted the device undoes that demotion."""
        self.ranks[device] = rank
        for invite in self.invites.values():
            if invite["author"] == device:
                invite["stopped_by"] = [by for by in invite["stopped_by"] if by < rank]

    @invariant()
    def both_are_the_same(self) -> None:
        state = self.pool.membership.state
        known = {key_of(name).device_id: name for name in ALL_NAMES}
        assert {known[device]: member.rank for device, member in state.members.items()} == self.ranks
        assert {known[device] for device in state.removed} == self.removed
        for name, invite in self.invites.items():
            real = self.pool.membership.invite(key_of(name).public_key)
            assert real is not None
            assert (real.uses_left, real.valid) == (invite["uses"], not invite["stopped_by"])


HonestHistory.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestHonestHistory = HonestHistory.TestCase


def test_many_removals_take_few_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are ranks in use, and one that finds nothing new."""
    readings = []

    class Counted(evaluation._Reading):
        def __init__(self, *args: Any) -> None:
            readings.append(1)
            super().__init__(*args)

    monkeypatch.setattr(evaluation, "_Reading", Counted)
    pool = Pool()
    pool.invite("founder", "i")
    for author, others in (("founder", "ann"), ("ann", "bob")):
        pool.bring(others, author, role=Role.ADMIN)
        for number in range(30):
            pool.join(f"{author} {number}", "i")
            pool.remove(author, f"{author} {number}", keep=())
    readings.clear()
    assert len(pool.membership.state.removed) == 60
    assert len(readings) == 3


def without_what_makes_no_difference(soup: Soup) -> Membership:
    """The membership as it is when a full set has forgotten what it can."""
    smaller = Membership(soup.pool_id)
    for statement in soup.made:
        if statement.statement_id in soup.membership.state.relevant:
            smaller.add(statement)
    return smaller


def comparable(state: PoolState, *, without_invites: bool = False) -> tuple[object, ...]:
    """A state as values that can be compared."""
    members, left, admissions = dict(state.members), dict(state.left), dict(state.admissions)
    whole = (state.name, members, left, admissions, state.removed, state.entered, state.effective)
    return whole if without_invites else (*whole, dict(state.invites))
