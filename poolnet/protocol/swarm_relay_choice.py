"""What to ask of peers that relay: that fetch for this device what they do not have.

Holders come first. A relay is asked for what is rare, and only while no origin is there that delivers.
"""

from poolnet.protocol.swarm_choice import CHOICE, take_from
from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_source import Source
from poolnet.ranges import RangeSet


def choose_relayed(download: FileDownload, source: Source, room: int) -> tuple[RangeSet, int] | None:
    """Return what a peer should fetch for this device, and how many of it; None: nothing, or holders have it."""
    if not download.rare or not download.may_relay(source) or _has_origin(download):
        return None
    pool = download.rare
    if download.shape.size_bytes is None:  # only what exists: a promise of more would look like one that is not kept
        pool = pool.intersection(((0, source.relay_count),)) if source.relay_count else RangeSet()
    relays = [other for other in download.sources.values() if not other.pace.is_stalled and download.may_relay(other)]
    room = min(room, -(-len(pool) // max(1, len(relays))))  # leave their share to the others
    return take_from(download, pool, source, room, CHOICE * room) if room else None


def relayed_with(download: FileDownload, piece: int) -> int:
    """Return the most hops with which a peer was asked to fetch a piece, and has not said no; 0: nobody was."""
    hops = 0
    for source in download.sources.values():
        if piece in source.relayed:
            hops = max(hops, source.relayed[piece])
        if source.asked_hops and source.is_asked_for(piece):
            hops = max(hops, source.asked_hops)
    return hops


def is_out_of_reach(download: FileDownload, piece: int) -> bool:
    """Return whether a piece that is wanted is promised by nobody, and nobody could be asked for it."""
    piece = download.goal.blocking(piece)
    if piece not in download.open:
        return False
    for source in download.sources.values():
        knows_it = download.shape.size_bytes is not None or piece < source.relay_count
        may_bring = piece in source.has or (knows_it and download.may_relay(source))
        if may_bring and not source.pace.is_stalled:
            return False
    return True


def _has_origin(download: FileDownload) -> bool:
    return any(source.is_origin and not source.pace.is_stalled for source in download.sources.values())
