"""Who offers what: the state that the pool's offers and retractions add up to, in whatever order they come.

For each (node, file) the message with the highest clock decides. What a file is (its kind) is a claim of whoever offers
it, so claims of different kinds stay apart: each kind that somebody claims is an offer of its own. No I/O.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import attrs

from poolnet.clock import Hlc
from poolnet.events import OfferKind
from poolnet.files.offer_shares import OfferShares
from poolnet.ids import DeviceId, FileId
from poolnet.limits import MAX_OFFERS
from poolnet.wire.bodies import FolderBody, MediaBody, OfferBody, StreamBody

#: ``offered``: by others, not here · ``queued``, ``downloading``, ``paused``: on its way here · ``failed``: its last
#: download ended without it · ``complete``: fetched, whole, and served on · ``seeding``: offered by this device.
OfferState = Literal["offered", "queued", "downloading", "paused", "failed", "complete", "seeding"]


@attrs.frozen(kw_only=True)
class OfferInfo:
    """A file that can be fetched, as seen from this device; one file offered as several kinds is several of these.

    Attributes:
        name: as its author wrote it; `safe_file_name` makes it harmless.
        nodes: the devices that offer it as this kind (not necessarily online), the earliest offer first.
        local_path: where it is on this device, or None.
        done_bytes: verified bytes that are here.
        kind: what it is: a file, a folder, a picture that everyone fetches, or a stream (its size is 0).
        file_count: of a folder; 1 for everything else.
        holders: so many devices, at least, have it or a part of it: those that offer it, linked ones that fetch it, and
            this one.
    """

    file_id: FileId
    name: str
    size_bytes: int
    nodes: tuple[DeviceId, ...]
    local_path: Path | None
    state: OfferState
    done_bytes: int
    kind: OfferKind = "file"
    file_count: int = 1
    holders: int = 0


@attrs.frozen(kw_only=True)
class NodeOffer:
    """One device's offer of a file, folder, picture or stream.

    Attributes:
        size_bytes: of a folder, its content's; 0 for a stream.
        list_id: of a folder, the file that lists what is in it; `list_size` is its size.
        stream_id: of a file that is the whole of a stream, that stream; empty otherwise.
        width, height: of a picture, as its author says; 0 if nobody knows.
    """

    node: DeviceId
    name: str
    size_bytes: int
    hlc: Hlc
    kind: OfferKind = "file"
    file_count: int = 1
    list_id: FileId | None = None
    list_size: int = 0
    stream_id: bytes = b""
    width: int = 0
    height: int = 0


_T = TypeVar("_T")

#: What messages offer. The id of a stream is not in its body: it depends on the pool.
OfferedBody = OfferBody | FolderBody | MediaBody | StreamBody


def offer_of(node: DeviceId, body: OfferedBody, hlc: Hlc) -> NodeOffer:
    """Return what a message offers."""
    match body:
        case OfferBody():
            return NodeOffer(node=node, name=body.name, size_bytes=body.size, hlc=hlc, stream_id=body.stream_id)
        case FolderBody():
            return NodeOffer(
                node=node,
                name=body.name,
                size_bytes=body.size,
                hlc=hlc,
                kind="folder",
                file_count=body.file_count,
                list_id=body.list_id,
                list_size=body.list_size,
            )
        case MediaBody():
            return NodeOffer(
                node=node,
                name=body.name,
                size_bytes=body.size,
                hlc=hlc,
                kind="media",
                width=body.width,
                height=body.height,
            )
        case StreamBody():
            return NodeOffer(node=node, name=body.name, size_bytes=0, hlc=hlc, kind="stream")


class OfferBook:
    """Offers of a pool, at most `MAX_OFFERS` live ones and as many remembered retractions.

    When there is no more room, the device with the most offers loses the oldest of them, and of what is remembered to
    be retracted the same (`OfferShares`): nobody pushes out what others said.

    Attributes:
        dropped: how many offers were lost so.
    """

    def __init__(self) -> None:
        self._offers: dict[FileId, dict[DeviceId, NodeOffer]] = {}
        self._lists: dict[FileId, dict[DeviceId, NodeOffer]] = {}  # of folders, as if they were offered
        self._wholes: dict[tuple[DeviceId, bytes], FileId] = {}  # by author and stream
        self._pictures: dict[FileId, dict[DeviceId, NodeOffer]] = {}  # those of the offers that are
        self._proven: dict[FileId, tuple[FileId, int]] = {}  # lists and sizes of folders that are offered
        self._retracted: dict[FileId, dict[DeviceId, Hlc]] = {}
        self._shares = OfferShares()
        self._retractions = OfferShares()
        self.dropped = 0

    def __contains__(self, file_id: object) -> bool:
        """Return whether somebody offers a file."""
        return file_id in self._offers

    def offered(self, file_id: FileId, offer: NodeOffer) -> bool:
        """Take note of an offer; return whether it is kept, and that device did not offer the file just before."""
        earlier = self.by_node(file_id, offer.node)
        if self._retracted.get(file_id, {}).get(offer.node, -1) >= offer.hlc:
            return False
        if earlier is not None:
            offer = _latest(earlier, offer)
            self._forget(file_id, earlier)
        self._note(file_id, offer)
        while len(self._shares) > MAX_OFFERS:
            node, oldest = self._shares.first_to_go()
            self._forget(oldest, self._offers[oldest][node])
            self.dropped += 1
        return earlier is None and self.by_node(file_id, offer.node) is not None

    def retracted(self, file_id: FileId, node: DeviceId, hlc: Hlc) -> bool:
        """Take note of a retraction; return whether it ended the last offer of the file."""
        self._remember_retraction(file_id, node, hlc)
        offer = self.by_node(file_id, node)
        if offer is None or offer.hlc > hlc:
            return False
        self._forget(file_id, offer)
        return file_id not in self._offers

    def is_withdrawn(self, file_id: FileId) -> bool:
        """Return whether somebody offered the file once, and nobody does any more."""
        return file_id not in self._offers and file_id in self._retracted

    def kinds(self, file_id: FileId) -> list[OfferKind]:
        """Return what a file is offered as: what most devices say first, of equals what was said earliest."""
        offers = self._of_kind(file_id)
        claims = Counter(offer.kind for offer in offers)
        by_belief = sorted(offers, key=lambda offer: (-claims[offer.kind], offer.hlc, offer.node))
        return list(dict.fromkeys(offer.kind for offer in by_belief))

    def best(self, file_id: FileId, kind: OfferKind | None = None) -> NodeOffer | None:
        """Return the offer to show of a file as `kind` (without it, the first of `kinds`).

        Of the size that most devices claim, the earliest of those.
        """
        kind = kind or next(iter(self.kinds(file_id)), None)
        return next(iter(_by_belief(self._of_kind(file_id, kind))), None)

    def by_node(self, file_id: FileId, node: DeviceId) -> NodeOffer | None:
        """Return what one device says of a file."""
        return self._offers.get(file_id, {}).get(node)

    def sizes(self, file_id: FileId) -> list[int | None]:
        """Return the sizes that devices claim a file (or the list of a folder) has, in the order in which to try them.

        The id binds the size, so only one can be true, whatever kind it is offered as; which one shows when the first
        piece is verified. A stream has none.
        """
        by_belief = _by_belief(self._claims(file_id))
        return list(dict.fromkeys(None if offer.kind == "stream" else offer.size_bytes for offer in by_belief))

    def nodes(self, file_id: FileId, kind: OfferKind | None = None) -> tuple[DeviceId, ...]:
        """Return the devices that offer a file as `kind` (without it: as anything), the earliest first.

        Without `kind` the list of a folder counts as offered by who offers the folder.
        """
        offers = self._claims(file_id) if kind is None else self._of_kind(file_id, kind)
        by_age = sorted(offers, key=lambda offer: (offer.hlc, offer.node))
        return tuple(dict.fromkeys(offer.node for offer in by_age))

    def files(self) -> Iterator[FileId]:
        """Iterate over the files that somebody offers."""
        return iter(self._offers)

    def of_node(self, node: DeviceId) -> list[FileId]:
        """Return the files that one device offers."""
        return self._shares.of_node(node)

    def pictures(self) -> Iterator[tuple[FileId, NodeOffer]]:
        """Iterate over the pictures that somebody shows, with the newest offer of each."""
        return ((file_id, _newest(offers.values())) for file_id, offers in self._pictures.items())

    def picture(self, file_id: FileId) -> NodeOffer | None:
        """Return the newest offer of a picture."""
        offers = self._pictures.get(file_id)
        return None if offers is None else _newest(offers.values())

    def prove_list(self, file_id: FileId, list_id: FileId, size_bytes: int) -> list[DeviceId]:
        """Take note of the list and the size that a folder really has: what else is said of it counts no more.

        Returns:
            Who said something else, the first time.
        """
        if file_id in self._proven or file_id not in self._offers:
            return []
        self._proven[file_id] = (list_id, size_bytes)
        return [offer.node for offer in self._offers[file_id].values() if self._is_disproven(file_id, offer)]

    def is_disputed(self, file_id: FileId) -> bool:
        """Return whether a folder is offered with different lists, or sizes, and nobody knows which are true."""
        return len({(offer.list_id, offer.size_bytes) for offer in self._of_kind(file_id, "folder")}) > 1

    def is_stream_offered(self, stream_id: FileId) -> bool:
        """Return whether its author publishes a stream, or did and offers it as a file now."""
        return bool(self._of_kind(stream_id, "stream"))

    def whole_of_stream(self, stream_id: FileId) -> FileId | None:
        """Return the file that the author of a stream offers as the whole of it; what others say does not count."""
        for author in self.nodes(stream_id, "stream"):
            file_id = self._wholes.get((author, stream_id))
            if file_id is not None and self.by_node(file_id, author) is not None:
                return file_id
        return None

    def _of_kind(self, file_id: FileId, kind: OfferKind | None = None) -> Sequence[NodeOffer]:
        """Return the offers of a file as `kind`; without it, all."""
        offers = self._offers.get(file_id, {}).values()
        # Only its author can offer a stream: its id says who that is. What others offer under that id is a lie.
        believed = [offer for offer in offers if offer.kind == "stream"] or offers
        if file_id in self._proven:
            believed = [offer for offer in believed if not self._is_disproven(file_id, offer)]
        return [offer for offer in believed if kind in (None, offer.kind)]

    def _is_disproven(self, file_id: FileId, offer: NodeOffer) -> bool:
        return offer.kind == "folder" and (offer.list_id, offer.size_bytes) != self._proven[file_id]

    def _claims(self, file_id: FileId) -> Sequence[NodeOffer]:
        """Return all that is said of a file: by its offers, and by those of folders that it is the list of."""
        return [*self._of_kind(file_id), *self._lists.get(file_id, {}).values()]

    def _note(self, file_id: FileId, offer: NodeOffer) -> None:
        self._shares.put(offer.node, file_id, offer.hlc)
        self._offers.setdefault(file_id, {})[offer.node] = offer
        if offer.kind == "media":
            self._pictures.setdefault(file_id, {})[offer.node] = offer
        if offer.list_id is not None:
            listed = NodeOffer(node=offer.node, name=offer.name, size_bytes=offer.list_size, hlc=offer.hlc)
            self._lists.setdefault(offer.list_id, {})[offer.node] = listed
        if offer.stream_id:
            self._wholes[offer.node, offer.stream_id] = file_id

    def _forget(self, file_id: FileId, offer: NodeOffer) -> None:
        self._shares.remove(offer.node, file_id)
        _remove(self._offers, file_id, offer.node)
        _remove(self._pictures, file_id, offer.node)
        if file_id not in self._offers:
            self._proven.pop(file_id, None)
        if offer.list_id is not None:
            _remove(self._lists, offer.list_id, offer.node)
        if self._wholes.get((offer.node, offer.stream_id)) == file_id:
            del self._wholes[offer.node, offer.stream_id]

    def _remember_retraction(self, file_id: FileId, node: DeviceId, hlc: Hlc) -> None:
        retracted = self._retracted.setdefault(file_id, {})
        retracted[node] = max(hlc, retracted.get(node, hlc))
        self._retractions.put(node, file_id, retracted[node])
        if len(self._retractions) > MAX_OFFERS:
            node, oldest = self._retractions.first_to_go()
            self._retractions.remove(node, oldest)
            _remove(self._retracted, oldest, node)


def _latest(one: NodeOffer, other: NodeOffer) -> NodeOffer:
    """Return which of two offers of one device and file counts. What was the whole of a stream stays that."""
    earlier, later = sorted((one, other), key=lambda offer: offer.hlc)
    if later.kind != "file" or later.stream_id:
        return later
    return attrs.evolve(later, stream_id=earlier.stream_id)


def _newest(offers: Iterable[NodeOffer]) -> NodeOffer:
    return max(offers, key=lambda offer: (offer.hlc, offer.node))


def _remove(offers: dict[FileId, dict[DeviceId, _T]], file_id: FileId, node: DeviceId) -> None:
    of_file = offers.get(file_id, {})
    of_file.pop(node, None)
    if not of_file:
        offers.pop(file_id, None)


def _by_belief(offers: Sequence[NodeOffer]) -> Sequence[NodeOffer]:
    if len(offers) < 2:
        return offers
    claims = Counter(offer.size_bytes for offer in offers)
    return sorted(offers, key=lambda offer: (-claims[offer.size_bytes], offer.hlc, offer.node))
