"""What happens to `Agreement` (agreement.py), and what it wants done: its events and effects."""

from collections.abc import Callable
from typing import Any

import attrs

from poolnet.ids import DeviceId, MsgId
from poolnet.protocol.key_set import KeySet
from poolnet.wire import pool_frames as frames
from poolnet.wire.claims import Bound

AgreementFrame = frames.OpenComparison | frames.Compare | frames.WantMessages

# --- events -----------------------------------------------------------------------------------------------------


@attrs.frozen
class LinkUp:
    """A proven link to `peer`, which has all our statements; replaces an earlier one."""

    peer: DeviceId
    is_dialler: bool


@attrs.frozen
class LinkDown:
    """The link to `peer` is gone, and with it everything sent that has not arrived."""

    peer: DeviceId


@attrs.frozen
class Received:
    """A frame from `peer`. Ignored from a peer without a link. (`Messages` come as `Arrived`.)"""

    peer: DeviceId
    frame: AgreementFrame


@attrs.frozen
class Arrived:
    """A `Messages` frame from `peer`: its number, the ids of its messages, whether it is the last of that number.

    To be told after each of them was judged (`gossip.Fetched`), so that `is_pending` is true for those accepted.
    """

    peer: DeviceId
    number: int
    ids: tuple[MsgId, ...]
    is_last: bool


@attrs.frozen
class Stepped:
    """The result of `Step`; None if the database failed."""

    step: int
    result: Any


@attrs.frozen
class Stored:
    """These messages, wherever they came from, are pending no more: stored, or held, or refused by the database."""

    ids: tuple[MsgId, ...]


@attrs.frozen
class Served:
    """What `Serve` asked for was sent to the last frame, or will not be: the link is gone."""

    peer: DeviceId
    number: int


@attrs.frozen
class FetchOlder:
    """Get the `count` messages before `before` (`HIGHEST`: the newest) from neighbours, at most `MAX_OLDER_MESSAGES`.

    Answered with `Finished`: True when a neighbour that keeps that part of the history has been asked, or all have.
    Without neighbours, or if none answers, it is False.
    """

    request: int
    before: Bound
    count: int


@attrs.frozen
class Check:
    """Find out whether all neighbours have the same as this node up to `upper`, and go on until they have.

    Answered with `Finished`: True as soon as each neighbour has been found equal; False when there is no neighbour
    (any more). Neighbours that come meanwhile are checked as well.
    """

    request: int
    upper: Bound


@attrs.frozen
class Cancel:
    """Do not answer this request any more."""

    request: int


@attrs.frozen
class Deferred:
    """Something that `peer` has was not taken as it came: compare with it in a while, at any rate."""

    peer: DeviceId


@attrs.frozen
class FloorMoved:
    """Retention has let go of everything below `floor`."""

    floor: Bound


# --- effects ----------------------------------------------------------------------------------------------------


@attrs.frozen
class SendFrame:
    """Send a frame."""

    peer: DeviceId
    frame: AgreementFrame


@attrs.frozen
class Step:
    """Call `call` with the keys in the database, in one read transaction, and hand the result back with `Stepped`.

    `call` knows nothing of this machine and may run in another thread, at the same time as others.
    """

    step: int
    call: Callable[[KeySet], Any]


@attrs.frozen
class Serve:
    """Send `peer` those of these messages that are in the database, as `pack_messages` packs them; then say `Served`.

    Frames wait for the credit of the link. There are at most a few such effects for one peer not yet `Served`.
    """

    peer: DeviceId
    number: int
    ids: tuple[MsgId, ...]


@attrs.frozen
class Finished:
    """The answer to a request, exactly one each."""

    request: int
    ok: bool


@attrs.frozen
class KnownFrom:
    """From here on this node keeps its history in agreement by itself: to be kept on disk."""

    bound: Bound


@attrs.frozen
class Agreed:
    """`peer` and this node have the same messages in this range: it has all of ours there.

    `lower` is where the history that both keep in agreement begins, so that of what is below `upper` the peer has all
    that it wants.
    """

    peer: DeviceId
    lower: Bound
    upper: Bound


@attrs.frozen
class Misbehaved:
    """`peer` does not keep to the protocol."""

    peer: DeviceId
    reason: str


AgreementEvent = (
    LinkUp
    | LinkDown
    | Received
    | Arrived
    | Stepped
    | Stored
    | Served
    | FetchOlder
    | Check
    | Cancel
    | Deferred
    | FloorMoved
)
AgreementEffect = SendFrame | Step | Serve | Finished | KnownFrom | Agreed | Misbehaved
