"""Frames 1-15: what every link speaks, between nodes and to a sync server: proof, credit, ping, goodbye."""

import enum

import attrs

from poolnet.ids import PoolId, PublicKey
from poolnet.limits import MAX_REASON_CHARS, MAX_STATEMENT_SIZE
from poolnet.wire.framing import Frame, frame
from poolnet.wire.schema import ID32, SIGNATURE, data, integer, list_of, text, wire


class Purpose(enum.IntEnum):
    """What a link is for; told in the first frame."""

    POOL = 0
    SYNC = 1


@frame(1)
@attrs.frozen(kw_only=True)
class Hello(Frame):
    """First frame of each side: who I am (to be proven) and what this link is for.

    `credentials` are the pool statements that show the sender's right to be there (its Join and that one's Invite), for
    a peer that has not heard of it yet. To a sync server, `pool_id` is the pool to be attached.
    """

    purpose: int = wire(integer(0, 255))
    pool_id: PoolId = wire(ID32)
    public_key: PublicKey = wire(ID32)
    nonce: bytes = wire(ID32)
    credentials: tuple[bytes, ...] = wire(list_of(data(max_size=MAX_STATEMENT_SIZE), max_items=4))


@frame(2)
@attrs.frozen(kw_only=True)
class Proof(Frame):
    """A signature by the sender's device key over label, role, pool, both keys and both nonces."""

    signature: bytes = wire(SIGNATURE)


@frame(3)
@attrs.frozen(kw_only=True)
class Credit(Frame):
    """What the sender has consumed on this link so far: control bytes (frames 1-15 not counted) and chunks."""

    control_bytes: int = wire(integer())
    chunks: int = wire(integer())


@frame(4)
@attrs.frozen(kw_only=True)
class Ping(Frame):
    """Are you there, and what time is it? `unix_ms` is the sender's clock."""

    number: int = wire(integer())
    unix_ms: int = wire(integer())


@frame(5)
@attrs.frozen(kw_only=True)
class Pong(Frame):
    """The answer to the ping of that number."""

    number: int = wire(integer())
    unix_ms: int = wire(integer())


@frame(6)
@attrs.frozen(kw_only=True)
class Goodbye(Frame):
    """The sender closes the link; `code` is a word for programs, `reason` a sentence for people."""

    code: str = wire(text(max_chars=MAX_REASON_CHARS))
    reason: str = wire(text(max_chars=MAX_REASON_CHARS))


LINK_FRAMES = (Hello, Proof, Credit, Ping, Pong, Goodbye)
