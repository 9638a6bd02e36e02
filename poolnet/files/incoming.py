"""Pieces on their way in: verified and written by the store of their file, and what the swarm machine is told of it."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from poolnet.errors import StoreError
from poolnet.files.disk_turns import DiskTurns
from poolnet.files.uses import Fetched, Followed, PieceStore, Relayed, Served, Use
from poolnet.ids import DeviceId, FileId
from poolnet.protocol import swarm_events as sw
from poolnet.ranges import RangeSet
from poolnet.storage.piece_store import PiecesDamaged


async def take_in(
    peer: DeviceId,
    file_id: FileId,
    pieces: Sequence[tuple[int, bytes]],
    use_of: Callable[[FileId], Use | None],
    disk: DiskTurns,
) -> list[sw.SwarmEvent]:
    """Verify and write pieces of one file that came from a peer; return what became of each, in order.

    Args:
        use_of: returns what is done with a file now. If that changes meanwhile, the pieces count as dropped.
        disk: of all links, so that what comes over several at the same time is written together.
    """
    use = use_of(file_id)
    if use is None or isinstance(use, Served):
        return _all_dropped(file_id, pieces)
    try:
        genuine = await disk.do(use.store.write_pieces, pieces)
    except PiecesDamaged as exc:  # the cache gave up tree nodes that are needed for these
        gone = sw.StopServing(file_id, RangeSet.of(sorted(exc.pieces)).to_ranges())
        return [gone, *_all_dropped(file_id, pieces), *_evicted(use)]
    except StoreError as exc:
        dropped = [*_all_dropped(file_id, pieces), *_evicted(use)]
        if use_of(file_id) is not use:
            return dropped
        if isinstance(use, Relayed):  # the cache takes nothing: fetched again, it would only be refused again
            return [*dropped, sw.Route(file_id, use.store.shape.size_bytes, None)]
        use.watcher.failed(exc)
        return dropped
    if use_of(file_id) is not use:
        return _all_dropped(file_id, pieces)
    stored = [item for item, is_genuine in zip(pieces, genuine, strict=True) if is_genuine]
    if stored:
        _tell(use, stored)
    outcomes: list[sw.SwarmEvent] = [
        sw.PieceStored(file_id, piece) if is_genuine else sw.PieceRejected(peer, file_id, piece)
        for (piece, _), is_genuine in zip(pieces, genuine, strict=True)
    ]
    return outcomes + _evicted(use)


def chunk_bytes(store: PieceStore, pieces: Iterable[int]) -> int:
    """Return how many bytes of the file these pieces are."""
    return sum(store.shape.piece_size(piece) for piece in pieces if store.shape.is_chunk(piece))


def _all_dropped(file_id: FileId, pieces: Iterable[tuple[int, bytes]]) -> list[sw.SwarmEvent]:
    return [sw.PieceDropped(file_id, piece) for piece, _ in pieces]


def _evicted(use: Use) -> list[sw.SwarmEvent]:
    """Return what the cache had to give up, of any file."""
    if not isinstance(use, Relayed | Followed):
        return []
    gone = groupby(sorted(use.store.take_evicted()), key=lambda entry: entry[0])
    return [sw.StopServing(file_id, RangeSet.of([piece for _, piece in group]).to_ranges()) for file_id, group in gone]


def _tell(use: Fetched | Relayed | Followed, stored: Sequence[tuple[int, bytes]]) -> None:
    match use:
        case Fetched(store, watcher):
            watcher.pieces_stored(chunk_bytes(store, [piece for piece, _ in stored]))
        case Followed(_, watcher):
            watcher.pieces_arrived(stored)
        case Relayed():
            pass
