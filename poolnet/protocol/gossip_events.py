"""What happens to `Gossip` (gossip.py), what it makes of a message, and what it wants done."""

import enum

import attrs

from poolnet.ids import DeviceId, MsgId
from poolnet.wire import pool_frames as frames

GossipFrame = frames.Gossip | frames.GossipHave | frames.Graft | frames.Prune


class Verdict(enum.Enum):
    """What becomes of a message that is new here."""

    #: Delivered and passed on.
    ACCEPT = enum.auto()
    #: Ignored without blame: true once, but not any more, and whoever passed it on may not know yet.
    DROP = enum.auto()
    #: Not taken now, without blame: its author has said too much. Comparing histories brings it, or another copy.
    DEFER = enum.auto()
    #: Ignored, and whoever passed it on broke the protocol. It may still come, unspoiled, from others.
    REJECT = enum.auto()


# --- events -----------------------------------------------------------------------------------------------------


@attrs.frozen
class LinkUp:
    """A proven link to `peer`; replaces an earlier one.

    Not `is_eager`: it will not stay, is no part of a tree, and hears of messages late, many at a time.
    """

    peer: DeviceId
    is_eager: bool = True


@attrs.frozen
class LinkDown:
    """The link to `peer` is gone, and with it everything sent that has not arrived."""

    peer: DeviceId


@attrs.frozen
class Received:
    """A gossip frame from `peer`. Ignored from a peer without a link."""

    peer: DeviceId
    frame: GossipFrame


@attrs.frozen
class Publish:
    """Spread this node's own message. It is not delivered back."""

    msg_id: MsgId
    message: bytes


@attrs.frozen
class Fetched:
    """A message that `peer` was asked for because the history here lacks it.

    Judged like any other, whether or not it was met before, and delivered. It is not spread: neighbours that lack it
    find that out by comparing histories.
    """

    peer: DeviceId
    msg_id: MsgId
    message: bytes


@attrs.frozen
class Found:
    """The answer to `Lookup`: those of the messages that the database has."""

    peer: DeviceId
    messages: tuple[tuple[MsgId, bytes], ...]


# --- effects ----------------------------------------------------------------------------------------------------


@attrs.frozen
class SendFrame:
    """Send a frame. The same object goes to several peers where it can, so that it need be encoded only once.

    `msg_id` is of the message in it, if there is one.
    """

    peer: DeviceId
    frame: GossipFrame
    msg_id: MsgId | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Deliver:
    """A message of another node, accepted. `peer` brought it, over `hops` links in all (0: it was fetched)."""

    msg_id: MsgId
    message: bytes
    peer: DeviceId
    hops: int


@attrs.frozen
class Lookup:
    """`peer` asks for messages that are no longer in memory: look in the database and answer with `Found`."""

    peer: DeviceId
    ids: tuple[MsgId, ...]


@attrs.frozen
class Deferred:
    """`peer` brings messages that are not taken because their authors say too much: compare histories with it later.

    `msg_id` is the first of them; it is told once a second.
    """

    peer: DeviceId
    msg_id: MsgId


@attrs.frozen
class Misbehaved:
    """`peer` sent a message that no honest node passes on. It was ignored, and may come again from others."""

    peer: DeviceId
    reason: str


GossipEvent = LinkUp | LinkDown | Received | Publish | Fetched | Found
GossipEffect = SendFrame | Deliver | Lookup | Deferred | Misbehaved
