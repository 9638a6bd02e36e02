"""Frames 1-15: what every link speaks, between nodes and to a sync server: proof, credit, ping, goodbye.

Frames 7-9 arrange a lane (a TCP connection for the chunks of the link) and settle its end, on the control stream;
frames 10-12 travel on the lane itself, next to the chunks.
"""

import enum

import attrs

from poolnet.ids import PoolId, PublicKey
from poolnet.limits import MAX_CANDIDATES, MAX_REASON_CHARS, MAX_STATEMENT_SIZE
from poolnet.wire.framing import Frame, frame
from poolnet.wire.schema import ID32, IP_ADDRESS, SIGNATURE, appended, data, integer, list_of, text, wire

INCARNATION_SIZE = 16
LANE_ID_SIZE = 16
LANE_TOKEN_SIZE = 32
_LANE_ID = data(min_size=LANE_ID_SIZE, max_size=LANE_ID_SIZE)
_LANE_TOKEN = data(min_size=LANE_TOKEN_SIZE, max_size=LANE_TOKEN_SIZE)


class Purpose(enum.IntEnum):
    """What a link is for; told in the first frame."""

    POOL = 0
    SYNC = 1


@frame(1)
@attrs.frozen(kw_only=True)
class Hello(Frame):
    """First frame of each side: who I am (to be proven) and what this link is for.

    `credentials` are the pool statements that show the sender's right to be there (its Join and that one's Invite), for
    a peer that has not heard of it yet. To a sync server, `pool_id` is the pool to be attached. `incarnation` is drawn
    at random when the sender's endpoint is opened (`INCARNATION_SIZE` bytes): another one means that the sender was
    started anew, and that its earlier links are dead. An older version sends none.
    """

    purpose: int = wire(integer(0, 255))
    pool_id: PoolId = wire(ID32)
    public_key: PublicKey = wire(ID32)
    nonce: bytes = wire(ID32)
    credentials: tuple[bytes, ...] = wire(list_of(data(max_size=MAX_STATEMENT_SIZE), max_items=4))
    incarnation: bytes = appended(data(max_size=INCARNATION_SIZE), default=b"")


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


@frame(7)
@attrs.frozen(kw_only=True)
class LaneOffer(Frame):
    """Dial me for a lane: at this TCP port of the address that you know me by, or of one of `hosts`.

    Who dials shows `token` there. It is good for one connection, and void with the sender's next `LaneOffer` or when
    the sender has waited long enough.
    """

    lane_id: bytes = wire(_LANE_ID)
    token: bytes = wire(_LANE_TOKEN, repr=False)
    port: int = wire(integer(1, 65535))
    hosts: tuple[str, ...] = wire(list_of(IP_ADDRESS, max_items=MAX_CANDIDATES))


@frame(8)
@attrs.frozen(kw_only=True)
class LanePass(Frame):
    """I cannot reach you, or cannot be dialled: your turn to offer, or, if you did, no lane for now."""


@frame(9)
@attrs.frozen(kw_only=True)
class LaneEnded(Frame):
    """That lane is over; `chunks` arrived whole on the lanes of this link since it came up. To be answered likewise.

    Chunks beyond them did not and will not arrive; their sender sends them again, as streams.
    """

    lane_id: bytes = wire(_LANE_ID)
    chunks: int = wire(integer())


@frame(10)
@attrs.frozen(kw_only=True)
class LaneHello(Frame):
    """First on a lane, from who dialled it."""

    lane_id: bytes = wire(_LANE_ID)
    token: bytes = wire(_LANE_TOKEN, repr=False)


@frame(11)
@attrs.frozen(kw_only=True)
class LaneWelcome(Frame):
    """The answer to a right token; chunks may follow, both ways."""


@frame(12)
@attrs.frozen(kw_only=True)
class LaneReport(Frame):
    """How many chunks arrived whole on the lanes of this link, and how many of them the application has consumed."""

    received: int = wire(integer())
    consumed: int = wire(integer())


LINK_FRAMES = (Hello, Proof, Credit, Ping, Pong, Goodbye, LaneOffer, LanePass, LaneEnded)
#: Those that travel on a lane.
LANE_FRAMES = (LaneHello, LaneWelcome, LaneReport)
