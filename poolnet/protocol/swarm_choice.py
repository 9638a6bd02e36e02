"""What to ask of a peer that has pieces of a file: what nobody else has before what others have, and the rarest first.

Origins are asked only for what no partial holder has, unless these would take very long. A laggard is asked for nothing
that others bring sooner. Peers that relay are asked by protocol/swarm_relay_choice.py, the last pieces by
protocol/swarm_end_game.py.
"""

from collections.abc import Iterable

from poolnet.limits import MAX_RANGES_PER_WANT
from poolnet.protocol.piece_runs import Run, rotated, take, within, without
from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_source import Source
from poolnet.ranges import RangeSet

#: A want names so many times more pieces than it asks for, so that the other side can choose.
CHOICE = 4
#: Rarest first among so many runs; looking at all of them would cost more than it gains.
_MAX_SAMPLE = 64
#: Partial holders that together would need longer than this, and are that much slower than an origin, are helped by it.
_SLOW_S = 2.0
_SLOW_FACTOR = 4.0
#: Who has had nothing to give so often in a row is not counted on.
_OFTEN_EMPTY = 3
_NOTHING = RangeSet()


def choose(download: FileDownload, source: Source, room: int) -> tuple[RangeSet, int] | None:
    """Return what to ask of a peer and how many of it, or None if it has nothing that should be asked of it now."""
    if source.pace.is_slow and _spreads_beside(download, source):
        room = min(room, 1 - source.pace.outstanding)
    pool = _pool(download, source) if room > 0 else _NOTHING
    if not pool:
        return None
    helpers = [other for other in download.sources.values() if other.has and not other.pace.is_stalled]
    room = min(room, -(-len(download.open) // max(1, len(helpers))))  # leave their share to the others
    if download.goal.custody and download.is_own and not source.empty_answers:
        pool = pool.intersection(download.goal.custody) or pool  # somebody waits for these
    limit = CHOICE * room
    if source.is_origin and sum(1 for other in helpers if other.is_origin) <= 1:
        limit = download.shape.piece_count  # nobody else is asked for these anyway
    return take_from(download, pool, source, room, limit)


def take_from(
    download: FileDownload, pool: RangeSet, source: Source, room: int, limit: int
) -> tuple[RangeSet, int] | None:
    """Return up to `limit` pieces of `pool` to ask of a peer, and how many of them, at most `room`."""
    if download.shape.size_bytes is None:  # in order: who follows a stream needs the next piece first
        taken = take(_unreserved(download, pool.ranges(), source), room, max_runs=MAX_RANGES_PER_WANT)
    else:
        taken = _rarest_first(download, pool, source, limit)
    if not taken:
        return None
    download.cursor = taken[-1][1]
    pieces = RangeSet(taken)
    return pieces, min(room, len(pieces))


def _spreads_beside(download: FileDownload, source: Source) -> bool:
    """Return whether another partial holder delivers: a slow peer is then asked for one piece at a time.

    Several receivers share its uplink and keep it busy, and what waits there in a queue is old by the time it can
    be passed on: half the queue is half the time that a piece takes from node to node.
    """
    return any(other.is_counted and other.pace.rate for other in download.sources.values() if other is not source)


def _pool(download: FileDownload, source: Source) -> RangeSet:
    if source.is_laggard and _comes_sooner_without(download, source):
        return _NOTHING
    if not source.is_origin:
        return source.useful if source.is_counted else download.open.intersection(source.has)
    return download.open if not download.rare and _origin_should_help(download, source) else download.rare


def _comes_sooner_without(download: FileDownload, laggard: Source) -> bool:
    """Return whether the others will have brought all that is open before a laggard brings one piece."""
    rate, is_origin_there = 0.0, False
    for source in download.sources.values():
        if source.empty_answers >= _OFTEN_EMPTY or source.is_laggard or not source.has:
            continue
        if source.pace.rate:
            rate += source.pace.rate
            is_origin_there |= source.is_origin  # without one, something may be had of the laggard alone
    return is_origin_there and len(download.open) * (laggard.pace.rate or 0.0) < rate


def _origin_should_help(download: FileDownload, origin: Source) -> bool:
    """Return whether the partial holders would take very long, and the origin not."""
    rates = [source.pace.rate for source in download.sources.values() if source.is_counted]
    if not download.open or origin.pace.rate is None or None in rates:
        return False
    rate = sum(rate for rate in rates if rate is not None)
    return len(download.open) > _SLOW_S * rate and origin.pace.rate > _SLOW_FACTOR * rate


def _rarest_first(download: FileDownload, pool: RangeSet, source: Source, limit: int) -> list[Run]:
    if download.nodes and next(pool.ranges())[0] < download.shape.node_count:
        runs = _unreserved(download, within(pool.ranges(), download.nodes), source)  # chunks cannot come before these
    else:
        runs = _unreserved(download, rotated(pool, download.cursor), source)
    if source.is_origin:
        return take(runs, limit, max_runs=MAX_RANGES_PER_WANT)
    sample = take(runs, CHOICE * limit, max_runs=_MAX_SAMPLE)
    sample.sort(key=lambda run: download.holders.count_of(run[0]))
    return take(sample, limit, max_runs=MAX_RANGES_PER_WANT)


def _unreserved(download: FileDownload, runs: Iterable[Run], source: Source) -> Iterable[Run]:
    """Leave out what others are being asked for."""
    for other in download.sources.values():
        if other.asked is not None and other is not source:
            runs = without(runs, other.asked)
    return runs
