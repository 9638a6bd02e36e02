"""The mutual proof of device keys, as a machine: both ends in one test, and what a liar may try."""

from collections.abc import Callable

import pytest

from poolnet.errors import Refused
from poolnet.identity.keys import DeviceKey
from poolnet.ids import PoolId, PublicKey
from poolnet.limits import MAX_PRE_AUTH_SIZE, PRE_AUTH_TIMEOUT_S
from poolnet.protocol.link_auth import (
    Effect,
    LinkAuth,
    Proven,
    Received,
    Rejected,
    SendBytes,
    Started,
    TurnedAway,
)
from poolnet.wire.framing import FrameBuffer, FrameSet, encode_frame
from poolnet.wire.link_frames import Goodbye, Hello, Proof, Purpose

ALICE, BOB, EVE = (DeviceKey(bytes([number]) * 32) for number in (1, 2, 3))
POOL = PoolId(b"p" * 32)
FRAMES = FrameSet((Hello, Proof, Goodbye))


def dialler(
    key: DeviceKey = ALICE, *, peer: PublicKey = BOB.public_key, nonce: bytes = b"d" * 32, pool: PoolId = POOL
) -> LinkAuth:
    return LinkAuth(key, nonce=nonce, now=0.0, hello=(Purpose.POOL, pool, (b"mine",)), peer_key=peer)


def acceptor(
    key: DeviceKey = BOB,
    *,
    nonce: bytes = b"a" * 32,
    authorise: Callable[[Hello], tuple[bytes, ...]] = lambda _hello: (b"ours",),
) -> LinkAuth:
    return LinkAuth(key, nonce=nonce, now=0.0, authorise=authorise)


def sent(effects: list[Effect]) -> bytes:
    return b"".join(effect.data for effect in effects if isinstance(effect, SendBytes))


def frames(data: bytes) -> list[object]:
    buffer = FrameBuffer()
    buffer.feed_untrusted(data)
    return [FRAMES.decode_untrusted(payload) for payload in buffer.payloads()]


def run(one: LinkAuth, other: LinkAuth, *, piece_size: int = 10**6) -> tuple[list[Effect], list[Effect]]:
    """Let two machines talk until both fall silent; return all that each wanted done."""
    log: tuple[list[Effect], list[Effect]] = (one.handle(Started(), 0.0), other.handle(Started(), 0.0))
    wires = [sent(log[0]), sent(log[1])]
    while any(wires):
        for source, (target, machine) in enumerate([(1, other), (0, one)]):
            data, wires[source] = wires[source], b""
            for start in range(0, len(data), piece_size):
                if not machine.is_done:
                    effects = machine.handle(Received(data[start : start + piece_size]), 0.1)
                    log[target].extend(effects)
                    wires[target] += sent(effects)
    return log


@pytest.mark.parametrize("piece_size", [1, 7, 10**6])
def test_two_honest_devices_are_proven_whatever_pieces_the_bytes_come_in(piece_size: int) -> None:
    first, second = run(dialler(), acceptor(), piece_size=piece_size)
    assert isinstance(first[-1], Proven)
    assert isinstance(second[-1], Proven)
    assert (first[-1].hello.public_key, first[-1].hello.credentials) == (BOB.public_key, (b"ours",))
    assert (second[-1].hello.public_key, second[-1].hello.credentials) == (ALICE.public_key, (b"mine",))


def test_the_acceptor_proves_itself_only_to_a_proven_dialler() -> None:
    machine = acceptor()
    machine.handle(Started(), 0.0)
    answer = machine.handle(Received(sent(dialler().handle(Started(), 0.0))), 0.0)
    assert [type(frame) for frame in frames(sent(answer))] == [Hello]


def test_bytes_behind_the_proof_belong_to_the_link() -> None:
    one, other = dialler(), acceptor()
    one.handle(Started(), 0.0)
    other.handle(Started(), 0.0)
    hello = sent(other.handle(Received(encode_frame(one._ours)), 0.0))  # type: ignore[arg-type]
    proof = sent(one.handle(Received(hello), 0.0))
    effects = other.handle(Received(proof + b"what follows"), 0.0)
    assert isinstance(effects[-1], Proven)
    assert effects[-1].rest == b"what follows"


def test_an_acceptor_with_another_key_than_the_pinned_one_is_refused() -> None:
    first, _ = run(dialler(), acceptor(EVE))
    assert isinstance(first[-1], Rejected)
    assert first[-1].code == "wrong_key"


def test_the_policy_refuses_with_its_own_code() -> None:
    def refuse(hello: Hello) -> tuple[bytes, ...]:
        assert hello.public_key == ALICE.public_key
        raise Refused("go away", code="not_a_member")

    _, second = run(dialler(), acceptor(authorise=refuse))
    assert second == [Rejected("not_a_member", "go away")]


def test_a_goodbye_instead_of_an_answer_turns_the_dialler_away() -> None:
    machine = dialler()
    machine.handle(Started(), 0.0)
    goodbye = encode_frame(Goodbye(code="removed", reason="you were removed"))
    assert machine.handle(Received(goodbye), 0.0) == [TurnedAway("removed", "you were removed")]
    assert machine.is_done


def impostor(make_proof: Callable[[Hello, Hello], bytes]) -> list[Effect]:
    """Claim to be Alice towards Bob, with a proof made from both Hellos; return what Bob does."""
    bob = acceptor()
    bob.handle(Started(), 0.0)
    mine = dialler()._ours
    assert mine is not None
    theirs = frames(sent(bob.handle(Received(encode_frame(mine)), 0.0)))[0]
    assert isinstance(theirs, Hello)
    return bob.handle(Received(make_proof(mine, theirs)), 0.0)


def test_a_proof_by_another_key_is_refused() -> None:
    effects = impostor(lambda _mine, _theirs: encode_frame(Proof(signature=EVE.sign(b"anything"))))
    assert [type(effect) for effect in effects] == [Rejected]
    assert effects[0].code == "wrong_proof"  # type: ignore[union-attr]


def test_a_proof_of_an_earlier_link_is_refused() -> None:
    """Everything is the same but the acceptor's nonce."""
    old_one, old_other = dialler(), acceptor(nonce=b"x" * 32)
    first, _ = run(old_one, old_other)
    recorded = first[1]
    assert isinstance(recorded, SendBytes)
    assert isinstance(frames(recorded.data)[0], Proof)
    effects = impostor(lambda _mine, _theirs: recorded.data)
    assert effects[0].code == "wrong_proof"  # type: ignore[union-attr]


def test_a_proof_made_for_another_acceptor_is_refused() -> None:
    """Eve lets Alice prove herself to Eve, and passes that on to Bob with Bob's nonce."""

    def relay(_mine: Hello, theirs: Hello) -> bytes:
        alice = dialler(peer=EVE.public_key)
        alice.handle(Started(), 0.0)
        hello = Hello(
            purpose=theirs.purpose,
            pool_id=theirs.pool_id,
            public_key=EVE.public_key,
            nonce=theirs.nonce,
            credentials=(),
        )
        return sent(alice.handle(Received(encode_frame(hello)), 0.0))

    effects = impostor(relay)
    assert effects[0].code == "wrong_proof"  # type: ignore[union-attr]


def test_an_acceptor_cannot_reflect_the_diallers_own_proof() -> None:
    """Both keys the same on both sides would make the statements equal, but for the role."""
    one = dialler()
    one.handle(Started(), 0.0)
    hello = Hello(purpose=0, pool_id=POOL, public_key=BOB.public_key, nonce=b"a" * 32, credentials=())
    proof = sent(one.handle(Received(encode_frame(hello)), 0.0))
    effects = one.handle(Received(proof), 0.0)
    assert effects[0].code == "wrong_proof"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "first",
    [
        encode_frame(Proof(signature=bytes(64))),
        b"\x00\x00\x00\x01\x80",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02\x82\x14",
    ],
    ids=["a proof too early", "an empty array", "a huge length", "a cut-off frame of a pool"],
)
def test_anything_but_the_proof_is_refused(first: bytes) -> None:
    machine = acceptor()
    machine.handle(Started(), 0.0)
    effects = machine.handle(Received(first), 0.0)
    assert [effect.code for effect in effects if isinstance(effect, Rejected)] == ["protocol"]
    assert machine.is_done


def test_an_answer_about_another_pool_is_refused() -> None:
    machine = dialler()
    machine.handle(Started(), 0.0)
    hello = Hello(purpose=0, pool_id=PoolId(b"q" * 32), public_key=BOB.public_key, nonce=bytes(32), credentials=())
    assert isinstance(machine.handle(Received(encode_frame(hello)), 0.0)[0], Rejected)


def test_a_device_does_not_link_to_itself() -> None:
    _, second = run(dialler(BOB), acceptor(BOB))
    assert isinstance(second[-1], Rejected)
    assert second[-1].code == "self"


def test_only_so_many_bytes_are_taken_before_the_proof() -> None:
    machine = acceptor()
    machine.handle(Started(), 0.0)
    machine.handle(Received((MAX_PRE_AUTH_SIZE).to_bytes(4, "big")), 0.0)
    effects: list[Effect] = []
    for _ in range(MAX_PRE_AUTH_SIZE // 1000 + 1):
        if not machine.is_done:
            effects = machine.handle(Received(bytes(1000)), 0.0)
    assert isinstance(effects[-1], Rejected)


def test_the_time_for_the_proof_is_limited() -> None:
    machine = acceptor()
    machine.handle(Started(), 0.0)
    deadline = machine.next_deadline()
    assert deadline == PRE_AUTH_TIMEOUT_S
    assert machine.tick(deadline - 0.01) == []
    assert machine.tick(deadline) == [Rejected("auth_timeout", "the proof took too long")]
    assert machine.next_deadline() is None
