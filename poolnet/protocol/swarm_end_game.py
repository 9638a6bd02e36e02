"""The last pieces of a file, and what else everything waits for: when to ask a second holder, and which.

Near the end a piece that was promised long ago may be promised by two; whoever brings it first is enough.
"""

from collections.abc import Iterator

from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_source import Source

#: Another holder is asked if it is so much faster: a partial one, or an origin.
_FASTER_FACTOR = 1.5
_SLOW_FACTOR = 4.0


def is_ending(download: FileDownload, most: int) -> bool:
    """Return whether no more than `most` pieces are on their way, and nothing else can be asked for.

    That is so at the end, and whenever all waits for a few nodes of the tree.
    """
    on_their_way = sum(len(source.promised) + len(source.asked or ()) for source in download.sources.values())
    return not download.open and 0 < on_their_way <= most


def overdue(download: FileDownload, before: float) -> Iterator[tuple[Source, int]]:
    """Yield pieces promised before that time and not asked of a second peer yet, and by whom."""
    for source in download.sources.values():
        for piece, promised_at in source.promised.items():
            if promised_at <= before and piece not in download.asked_twice:
                yield source, piece


def second_holder(
    download: FileDownload, piece: int, first: Source, now: float, *, with_origins: bool
) -> Source | None:
    """Return the least busy other peer that has a piece and is much faster than the first, or None.

    Who has just had nothing to give is left alone for a while, as with any want.
    """
    best: Source | None = None
    for source in download.sources.values():
        if source is first or source.asked_count or source.pace.is_stalled or piece not in source.has:
            continue
        if now < source.rest_until:
            continue
        if source.pace.outstanding >= source.pace.window or (source.is_origin and not with_origins):
            continue
        if not _is_slower(first, source):
            continue
        if best is None or source.pace.outstanding < best.pace.outstanding:
            best = source
    return best


def has_faster_source(download: FileDownload, source: Source) -> bool:
    """Return whether another peer is known to deliver much faster."""
    return any(
        other.pace.rate and not other.pace.is_stalled and _is_slower(source, other)
        for other in download.sources.values()
        if other is not source and other.has
    )


def _is_slower(first: Source, second: Source) -> bool:
    """Return whether the second peer would bring a piece much sooner than the first brings what it promised."""
    first_s = first.pace.delivery_s(len(first.promised))
    second_s = second.pace.delivery_s(second.pace.outstanding + 1)
    if first_s is None or second_s is None:
        return True
    return first_s > second_s * (_SLOW_FACTOR if second.is_origin else _FASTER_FACTOR)
