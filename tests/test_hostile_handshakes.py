"""Strangers that want a link without a right to it: wrong proofs, credentials that admit nobody, damaged handshakes."""

import logging
import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from hostile_quic import HostileQuic
from link_world import LinkWorld, device, open_world, wait_until
from pool_builder import Pool, key_of
from stranger import OTHER_POOL, Stranger, hello_of, still_serves
from test_link_admission import keeper

from poolnet.errors import Refused
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Statement, encode_statement
from poolnet.limits import (
    PRE_AUTH_TIMEOUT_S,
)
from poolnet.net.endpoint import Endpoint
from poolnet.net.quic_settings import dialling_settings
from poolnet.protocol.link_auth import LABEL
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.cbor import encode_cbor
from poolnet.wire.framing import encode_frame
from poolnet.wire.link_frames import Goodbye, Hello, Proof, Purpose


def statement(ours: Hello, theirs: Hello, *, role: str = "dialler", **changed: Any) -> bytes:
    """What a dialler signs, or what it would sign if something were different."""
    parts = {
        "purpose": ours.purpose,
        "pool": ours.pool_id,
        "dialler": ours.public_key,
        "acceptor": theirs.public_key,
        "nonce": ours.nonce,
        "their_nonce": theirs.nonce,
    }
    return encode_cbor([LABEL, role, *(parts | changed).values()])


#: What is signed, by whom, instead of the statement that is asked for.
_WRONG_PROOFS: dict[str, Callable[[Hello, Hello], tuple[DeviceKey, bytes]]] = {
    "by another key": lambda ours, theirs: (device(4), statement(ours, theirs)),
    "of another pool": lambda ours, theirs: (device(3), statement(ours, theirs, pool=OTHER_POOL)),
    "for a server": lambda ours, theirs: (device(3), statement(ours, theirs, purpose=int(Purpose.SYNC))),
    "of the other role": lambda ours, theirs: (device(3), statement(ours, theirs, role="acceptor")),
    "for another member": lambda ours, theirs: (device(3), statement(ours, theirs, acceptor=device(5).public_key)),
    "with an old nonce": lambda ours, theirs: (device(3), statement(ours, theirs, their_nonce=bytes(32))),
    "of a message": lambda ours, theirs: (device(3), b"poolnet message 1" + theirs.nonce),
}


@pytest.mark.parametrize("wrong", _WRONG_PROOFS.values(), ids=_WRONG_PROOFS.keys())
async def test_a_wrong_proof_gets_no_link(
    autojump_clock: trio.abc.Clock, wrong: Callable[[Hello, Hello], tuple[DeviceKey, bytes]]
) -> None:
    async with open_world(MemoryNetwork(1)) as world:
        first, second = await world.open(1), await world.open(2)
        stranger = await Stranger.dial(world.network, second.address, peer=device(2).public_key)
        ours = hello_of(device(3))
        await stranger.say(encode_frame(ours))
        [theirs] = stranger.heard
        key, signed = wrong(ours, theirs)
        await stranger.say(encode_frame(Proof(signature=key.sign(signed))))
        assert [type(frame) for frame in stranger.heard] == [Hello, Goodbye]
        assert stranger.heard[1].code == "wrong_proof"
        await still_serves(world, first, second)
        await wait_until(lambda: second.statistics().half_open == 0)


async def test_the_right_proof_gets_a_link_and_a_recording_of_it_none(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(2)) as world:
        first, second = await world.open(1), await world.open(2)
        said = []
        for is_recording in (False, True):
            stranger = await Stranger.dial(world.network, second.address, peer=device(2).public_key)
            ours = hello_of(device(3))
            if not is_recording:
                await stranger.say(encode_frame(ours))
                said = [
                    encode_frame(ours),
                    encode_frame(Proof(signature=device(3).sign(statement(ours, stranger.heard[0])))),
                ]
                await stranger.say(said[1])
                assert isinstance(stranger.heard[1], Proof)
                await (await second.accept()).aclose()
            else:
                for data in said:
                    await stranger.say(data)
                assert stranger.heard[-1].code == "wrong_proof"
        await still_serves(world, first, second)


async def test_the_proof_of_the_acceptor_is_not_to_be_had_before_that_of_the_dialler(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with open_world(MemoryNetwork(3)) as world:
        second = await world.open(2)
        stranger = await Stranger.dial(world.network, second.address, peer=device(2).public_key)
        await stranger.say(encode_frame(hello_of(device(3))))
        await stranger.turn(PRE_AUTH_TIMEOUT_S + 1)
        assert [type(frame) for frame in stranger.heard] == [Hello, Goodbye]
        assert stranger.heard[1].code == "auth_timeout"


# --- credentials ----------------------------------------------------------------------------------------------------


def _expired(pool: Pool) -> tuple[Statement, ...]:
    invite = pool.invite("founder", "expired", expires=pool.now_ms + 1000)
    join = pool.join_statement("eve", "expired")
    pool.now_ms += 2000
    return (join, invite)


def _used_up(pool: Pool) -> tuple[Statement, ...]:
    invite = pool.invite("founder", "once", uses=1)
    pool.join("ann", "once")
    return (pool.join_statement("eve", "once", at=2000), invite)


def _removed(pool: Pool) -> tuple[Statement, ...]:
    invite = pool.invite("founder", "i")
    join = pool.join("eve", "i")
    pool.remove("founder", "eve")
    return (join, invite)


def _of_another_pool(_pool: Pool) -> tuple[Statement, ...]:
    other = Pool()
    other.pool_id, other.membership = OTHER_POOL, Membership(OTHER_POOL)
    invite = other.invite("founder", "i")
    return (other.join_statement("eve", "i"), invite)


def _of_somebody_else(pool: Pool) -> tuple[Statement, ...]:
    invite = pool.invite("founder", "i", uses=1)
    return (pool.join("ann", "i"), invite)


@pytest.mark.parametrize("shown", [_expired, _used_up, _removed, _of_another_pool, _of_somebody_else])
async def test_credentials_that_admit_nobody_are_refused_by_name_before_any_proof_of_ours(
    autojump_clock: trio.abc.Clock, shown: Callable[[Pool], tuple[Statement, ...]]
) -> None:
    pool = Pool()
    credentials = tuple(map(encode_statement, shown(pool)))
    members = set(pool.membership.state.admissions)
    async with open_world(MemoryNetwork(4)) as world:
        member = await world.open(2, authorise=lambda hello: keeper(pool.membership, pool.now_ms).authorise(hello))
        for said in (credentials, ()):
            stranger = await Stranger.dial(world.network, member.address, peer=device(2).public_key)
            first = attrs.evolve(hello_of(key_of("eve"), pool=pool.pool_id), credentials=said)
            await stranger.say(encode_frame(first))
            assert [type(frame) for frame in stranger.heard] == [Goodbye]
            assert stranger.heard[0].code == "not_a_member"
        assert member.statistics().links == 0
    assert set(pool.membership.state.admissions) == members


@pytest.mark.parametrize("damage", ["cut", "flipped", "many", "deep"])
async def test_damaged_credentials_are_refused_and_cost_nothing_more(
    autojump_clock: trio.abc.Clock, damage: str
) -> None:
    pool = Pool()
    pool.invite("founder", "i")
    good = encode_statement(pool.join_statement("eve", "i"))
    credentials = {
        "cut": (good[:-1],),
        "flipped": (good[:-1] + bytes([good[-1] ^ 1]),),
        "many": (b"\x80",) * 30_000,
        "deep": (b"\x81" * 30_000,),
    }[damage]
    async with open_world(MemoryNetwork(5)) as world:
        first = await world.open(1)
        authorise = keeper(pool.membership, pool.now_ms).authorise
        member = await world.open(2, authorise=authorise)
        stranger = await Stranger.dial(world.network, member.address, peer=device(2).public_key)
        shown = attrs.evolve(hello_of(key_of("eve"), pool=pool.pool_id), credentials=credentials)
        await stranger.say(encode_frame(shown))
        await stranger.turn(1)
        assert [type(frame) for frame in stranger.heard] == [Goodbye]
        assert member.statistics().links == 0
        with pytest.raises(Refused):  # a device that never was in that pool, and its answer is a word
            await world.dial(first, member, key=2)


# --- what nobody expects --------------------------------------------------------------------------------------------


class Garbled(HostileQuic):
    """Damages what it says in the handshake, which is then encrypted like anything else."""

    seed = 0

    def _push_crypto_data(self) -> None:
        rng = random.Random(self.seed)
        for epoch, buf in self._crypto_buffers.items():
            data = _damaged(rng, buf.data) if buf.data else b""
            self._crypto_streams[epoch].sender.write(data)
            buf.seek(0)


def _damaged(rng: random.Random, data: bytes) -> bytes:
    """Change a few bytes; usually with a length that is right again, so that more than the length is looked at."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, count = rng.randrange(4, len(changed)), rng.choice((1, 2, 32))
        changed[at : at + rng.choice((0, count))] = rng.choice((rng.randbytes(count), bytes(count), b"\xff" * count))
    if rng.random() < 0.7:
        changed[1:4] = (len(changed) - 4).to_bytes(3, "big")
    return bytes(changed)


@pytest.mark.parametrize("by_dialler", [True, False])
async def test_a_garbled_handshake_is_a_failure_of_that_connection_and_of_nothing_else(
    autojump_clock: trio.abc.Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    by_dialler: bool,
) -> None:
    caplog.set_level(logging.ERROR)
    async with open_world(MemoryNetwork(10)) as world:
        first, second = await world.open(1), await world.open(2)
        for seed in range(150):
            monkeypatch.setattr(Garbled, "seed", seed)
            if by_dialler:
                quic = Garbled(configuration=dialling_settings(device(2).public_key, datagram_size=1200))
                quic.connect(second.address, trio.current_time())
                stranger = Stranger(world.network.open_socket(("::", 0)), quic)
                await stranger.turn(0.1)
            else:
                await _dial_a_garbler(world, first, monkeypatch)
        await trio.sleep(PRE_AUTH_TIMEOUT_S + 5)
        assert second.statistics().half_open == 0
        await still_serves(world, first, second)


async def _dial_a_garbler(world: LinkWorld, dialler: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an honest dialler dial somebody whose answer is damaged."""
    with monkeypatch.context() as patch, trio.move_on_after(0.2):
        patch.setattr("poolnet.net.endpoint.BoundedQuicConnection", _garbled_acceptor)
        async with open_world(world.network) as other:
            liar = await other.open(4, port=0)
            link = await other.dial(dialler, liar, key=4)
            await link.aclose()  # the damage was where nobody looks


def _garbled_acceptor(**arguments: Any) -> HostileQuic:
    return (HostileQuic if arguments["configuration"].is_client else Garbled)(**arguments)
