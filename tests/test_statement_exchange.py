"""Two members bring their statements together before they gossip."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.clock import make_hlc
from poolnet.errors import ProtocolError, WireError
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Statement, encode_statement, make_genesis, make_invite
from poolnet.limits import MAX_FRAME_SIZE, MAX_IDS_PER_FRAME
from poolnet.protocol import statement_exchange
from poolnet.protocol.statement_exchange import StatementExchange, add_statements_untrusted, pack_statements
from poolnet.wire.framing import encode_frame
from poolnet.wire.pool_frames import Statements, WantStatements

FOUNDER = DeviceKey.from_seed(bytes(32))
GENESIS = make_genesis(FOUNDER, name="garden", nonce=bytes(16), hlc=make_hlc(1))


def invite(number: int) -> Statement:
    key = DeviceKey.from_seed(number.to_bytes(32, "big")).public_key
    return make_invite(
        FOUNDER, pool_id=GENESIS.pool_id, invite_key=key, expires_unix_ms=10**15, hlc=make_hlc(number + 1)
    )


INVITES = [invite(number) for number in range(1, 13)]


def membership_of(*statements: Statement) -> Membership:
    membership = Membership(GENESIS.pool_id)
    for statement in (GENESIS, *statements):
        assert membership.add(statement)
    return membership


def run(left: Membership, right: Membership) -> tuple[bool, bool]:
    """Let both sides talk until nothing is left to say; return whether each found the other ready."""
    sides = [StatementExchange(left), StatementExchange(right)]
    wires: list[list] = [list(sides[1].greet()), list(sides[0].greet())]  # frames on the way to each side
    ready = [False, False]
    while wires[0] or wires[1]:
        for me in (0, 1):
            if wires[me]:
                result = sides[me].handle(wires[me].pop(0))
                wires[1 - me].extend(result.replies)
                ready[me] = ready[me] or result.peer_is_ready
    return ready[0], ready[1]


@given(left=st.sets(st.sampled_from(range(12))), right=st.sets(st.sampled_from(range(12))))
def test_both_sides_end_with_the_union_and_know_it(left: set[int], right: set[int]) -> None:
    mine, theirs = (membership_of(*(INVITES[n] for n in side)) for side in (left, right))
    assert run(mine, theirs) == (True, True)
    assert (
        set(mine.ids()) == set(theirs.ids()) == {s.statement_id for s in (GENESIS, *(INVITES[n] for n in left | right))}
    )


def test_a_list_that_takes_several_frames_is_answered_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statement_exchange, "MAX_IDS_PER_FRAME", 4)
    mine, theirs = membership_of(*INVITES), membership_of()
    assert run(mine, theirs) == (True, True)
    assert len(theirs.ids()) == 13


def test_a_statement_that_its_author_did_not_sign_is_an_error() -> None:
    good = encode_statement(INVITES[0])
    forged = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(WireError):
        add_statements_untrusted(membership_of(), [forged])


def test_statements_told_again_are_neither_new_nor_an_error() -> None:
    membership = membership_of(INVITES[0])
    assert add_statements_untrusted(membership, [encode_statement(INVITES[0])]) == []


def test_what_a_full_set_refuses_is_not_taken_for_unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = membership_of(*INVITES[:3])
    for name, value in (("MAX_STATEMENTS", 4), ("RESERVED_STATEMENTS", 0)):
        monkeypatch.setattr(f"poolnet.identity.membership.{name}", value)
    assert add_statements_untrusted(mine, [encode_statement(INVITES[4])]) == []
    assert len(mine) == 4


def test_a_statement_of_another_pool_is_an_error() -> None:
    other = make_genesis(FOUNDER, name="meadow", nonce=bytes(16), hlc=make_hlc(1))
    with pytest.raises(WireError):
        add_statements_untrusted(membership_of(), [encode_statement(other)])


def test_a_statement_is_given_once_however_often_it_is_asked_for() -> None:
    exchange = StatementExchange(membership_of(*INVITES))
    exchange.greet()
    wanted = INVITES[3].statement_id
    answer = list(exchange.handle(WantStatements(ids=(wanted,) * MAX_IDS_PER_FRAME)).replies)
    assert answer == [Statements(statements=(encode_statement(INVITES[3]),))]


def test_who_asks_more_often_than_it_was_told_breaks_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statement_exchange, "MAX_IDS_PER_FRAME", 7)
    exchange = StatementExchange(membership_of(*INVITES))
    want = WantStatements(ids=(INVITES[3].statement_id,))
    assert len(exchange.greet()) == 2
    assert [len(list(exchange.handle(want).replies)) for _ in range(2)] == [1, 0]
    with pytest.raises(ProtocolError):
        exchange.handle(want)


@given(st.lists(st.integers(1, 40_000), max_size=60))
def test_packing_keeps_every_statement_and_every_frame_fits(sizes: list[int]) -> None:
    encoded = [bytes(size) for size in sizes]
    frames = pack_statements(encoded)
    assert [item for frame in frames for item in frame.statements] == encoded
    assert all(isinstance(frame, Statements) and len(frame.statements) <= MAX_IDS_PER_FRAME for frame in frames)
    assert all(len(encode_frame(frame)) <= MAX_FRAME_SIZE for frame in frames)
