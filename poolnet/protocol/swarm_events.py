"""What goes into the swarm machine and what comes out of it: values; protocol/swarm.py says how they belong together.

``piece`` is a number in the file's one numbering of tree nodes and chunks (protocol/hash_tree.py).
"""

import attrs

from poolnet.ids import DeviceId, FileId
from poolnet.protocol.conduct import Kind
from poolnet.ranges import Ranges
from poolnet.wire.swarm_frames import Have, Interest, Promise, Relay, Unwant, Want, Withdraw

SwarmFrame = Interest | Have | Want | Promise | Withdraw | Unwant | Relay

# --- events -----------------------------------------------------------------------------------------------------


@attrs.frozen
class LinkUp:
    """Frames and pieces can go to and come from this peer."""

    peer: DeviceId


@attrs.frozen
class LinkDown:
    """The link is gone, and everything queued on it."""

    peer: DeviceId


@attrs.frozen
class Received:
    """A frame came from a peer."""

    peer: DeviceId
    frame: SwarmFrame


@attrs.frozen
class Serve:
    """This device holds these pieces (too) and gives them to everyone who asks. Without a size it is a stream."""

    file_id: FileId
    size_bytes: int | None
    held: Ranges


@attrs.frozen
class StopServing:
    """These pieces are not given any more; None: none of the file. Queued ones are cancelled, peers are told.

    While the file is downloaded, the pieces named count as lost and are fetched again; None leaves the download alone
    (what it gets is then not served until the next `Serve`).
    """

    file_id: FileId
    pieces: Ranges | None = None


@attrs.frozen
class Download:
    """Fetch the file; `held` is what is there and verified already. What is there is served from now on."""

    file_id: FileId
    size_bytes: int
    held: Ranges = ()


@attrs.frozen
class CancelDownload:
    """Ask for no more of the file. What is held is served on, until `StopServing`."""

    file_id: FileId


@attrs.frozen
class Select:
    """Of a download, fetch only these chunks and the tree nodes above them; None: everything.

    `Completed` when they are here. A later `Select` changes the selection, also after `Completed`.
    """

    file_id: FileId
    pieces: Ranges | None


@attrs.frozen
class Prioritise:
    """Ask for this download before those of a lower priority; 0 unless this is said. Relaying comes after them all."""

    file_id: FileId
    priority: int


@attrs.frozen
class Follow:
    """Fetch the pieces of ``range(start, stop)`` of a stream, ascending, as soon as somebody has them.

    Said again, it moves the window; an empty one only listens (`StreamGrew`). It ends with `CancelDownload`, or after
    `StreamEnded` with `Completed`. What comes is served from then on.
    """

    stream_id: FileId
    start: int
    stop: int


@attrs.frozen
class StreamEnded:
    """A followed stream has so many pieces, and no more. `Completed` when the window reaches them and all are here."""

    stream_id: FileId
    count: int


@attrs.frozen
class Route:
    """How far this device is from a holder of a file: 1 is linked to one; None: no way is known, or no such offer.

    For what is downloaded, and for what `RouteWanted` asked for. Said again whenever it changes.
    """

    file_id: FileId
    size_bytes: int | None  # None: a stream
    hops: int | None


@attrs.frozen
class PieceArrived:
    """A piece that was expected is here, not verified yet. `PieceStored`, `PieceRejected` or `PieceDropped` follows."""

    peer: DeviceId
    file_id: FileId
    piece: int


@attrs.frozen
class PieceStored:
    """A piece is verified and written; it is served from now on."""

    file_id: FileId
    piece: int


@attrs.frozen
class PieceRejected:
    """A piece has the wrong hash or size: its sender is at fault, or, if it is piece 0, the size that was believed."""

    peer: DeviceId
    file_id: FileId
    piece: int


@attrs.frozen
class PieceDropped:
    """A piece that arrived was not stored, by no fault of its sender; it is fetched again."""

    file_id: FileId
    piece: int


@attrs.frozen
class PieceSent:
    """A piece of an earlier `SendPiece` was handed to the link."""

    peer: DeviceId
    file_id: FileId
    piece: int


@attrs.frozen
class SetCredit:
    """Ask `peer` for at most so many pieces at a time, as long as this link lasts."""

    peer: DeviceId
    pieces: int


#: What this device is to serve and to fetch.
FileEvent = Serve | StopServing | Download | CancelDownload | Select | Prioritise | Follow | StreamEnded | Route

SwarmEvent = (
    LinkUp
    | LinkDown
    | Received
    | FileEvent
    | PieceArrived
    | PieceStored
    | PieceRejected
    | PieceDropped
    | PieceSent
    | SetCredit
)

# --- effects ----------------------------------------------------------------------------------------------------


@attrs.frozen
class SendFrame:
    """Post this frame to the peer now (it never waits behind pieces)."""

    peer: DeviceId
    frame: SwarmFrame


@attrs.frozen
class SendPiece:
    """Read, verify and send this piece, after those asked for before on this link; then report `PieceSent`.

    If it cannot be read, or is not what it was: `StopServing`. At most `MAX_WANT_WINDOW` are open on one link.
    """

    peer: DeviceId
    file_id: FileId
    piece: int


@attrs.frozen
class CancelSend:
    """These pieces of earlier `SendPiece`s are not needed any more. A late `PieceSent` for one is ignored."""

    peer: DeviceId
    file_id: FileId
    pieces: Ranges


@attrs.frozen
class Completed:
    """Every piece of a download, or of what is selected of it, is stored. The download is over; it is served on."""

    file_id: FileId


@attrs.frozen
class Misbehaved:
    """The peer sent a wrong piece or asks for too much; it is not asked for that file again on this link."""

    peer: DeviceId
    reason: str
    kind: Kind = Kind.PROTOCOL


@attrs.frozen
class PromiseBroken:
    """Nothing came for a while of what the peer promised out of what it has. It may be slow, or not mean it."""

    peer: DeviceId


@attrs.frozen
class SizeDoubted:
    """The peer means a file of another size, or the size that is believed is wrong; piece 0 would prove it.

    The peer is not asked for the file of that size again on this link. With another size, after `CancelDownload` and
    `StopServing`, it is.
    """

    peer: DeviceId
    file_id: FileId


@attrs.frozen
class SourcesChanged:
    """That many linked peers now hold something of a file that is being downloaded, or fetch it for this device."""

    file_id: FileId
    count: int


@attrs.frozen
class StreamGrew:
    """A followed stream has at least so many pieces, as one peer says that said less before; nothing is verified."""

    stream_id: FileId
    count: int


@attrs.frozen
class RouteWanted:
    """A peer asks for a file to be relayed of which no route was told: answer with `Route`, now or later.

    Until `RelayEnded`, which comes also if nothing was relayed.
    """

    file_id: FileId


@attrs.frozen
class RelayBegan:
    """Pieces of this file (without a size: stream) come for others from now on: verify and keep them in the cache.

    Then `PieceStored`, or `PieceDropped` if there is no room; for those thrown out, `StopServing`. A `Download` may
    follow at any time; relaying goes on with it.
    """

    file_id: FileId
    size_bytes: int | None


@attrs.frozen
class RelayFruitless:
    """Of a relayed file nothing ever came, and what was promised of it is withdrawn: its size may be another."""

    file_id: FileId


@attrs.frozen
class RelayEnded:
    """Nobody asks for this file any more. What is kept of it is served until `StopServing`."""

    file_id: FileId


SwarmEffect = (
    SendFrame
    | SendPiece
    | CancelSend
    | Completed
    | Misbehaved
    | PromiseBroken
    | SizeDoubted
    | SourcesChanged
    | StreamGrew
    | RouteWanted
    | RelayBegan
    | RelayFruitless
    | RelayEnded
)
