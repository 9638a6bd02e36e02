"""Which part of a history two nodes compare: what each keeps in agreement by itself, and where both meet.

Functions of the keys that are here, to be run where the database is. See agreement.py for the rules.
"""

import attrs

from poolnet.clock import hlc_ms, make_hlc
from poolnet.ids import MsgId
from poolnet.limits import AUTOMATIC_WINDOW_S, RECENT_MESSAGES, RECONCILE_LAG_S
from poolnet.protocol.key_set import KeySet
from poolnet.protocol.reconcile import Answer, answer
from poolnet.wire import pool_frames as frames
from poolnet.wire.claims import HIGHEST, LOWEST, Bound, Fingerprint

_HOUR_MS = 3600 * 1000


@attrs.frozen(kw_only=True)
class Window:
    """What a node knows when it works out what to compare.

    Attributes:
        known_from: from where on it keeps its history in agreement; None for a newcomer.
        floor: where retention has let go of everything below.
        unix_ms: the corrected time.
        is_whole: whether age does not matter: everything is kept in agreement.
    """

    known_from: Bound | None
    floor: Bound
    unix_ms: int
    is_whole: bool = False

    def start(self, keys: KeySet) -> Bound:
        """Return where the history that this node keeps in agreement by itself begins; `floor` for a newcomer."""
        if self.known_from is None:
            return self.floor
        return self._from(self._days_ago(), keys)

    def suggested(self, keys: KeySet) -> Bound | None:
        """Return where the history of a newcomer should begin, or None if this node is one itself."""
        if self.known_from is None:
            return None
        session = None if self.is_whole else keys.session_start(HIGHEST)
        return self._from(max(self._days_ago(), LOWEST if session is None else _before(session)), keys)

    def _from(self, recent: Bound, keys: KeySet) -> Bound:
        """Return `recent`, or where the last `RECENT_MESSAGES` begin if that is earlier, but nothing let go."""
        least = self.floor if self.known_from is None else max(self.known_from, self.floor)
        if self.is_whole:
            return least
        hundredth = keys.nth_newest(HIGHEST, RECENT_MESSAGES)
        return max(least, min(recent, least if hundredth is None else _before(hundredth)))

    def _days_ago(self) -> Bound:
        """Return the beginning of the automatic window, the same for an hour: so that neighbours have the same."""
        if self.is_whole:
            return LOWEST
        since_ms = max(0, self.unix_ms - AUTOMATIC_WINDOW_S * 1000)
        return (make_hlc(since_ms // _HOUR_MS * _HOUR_MS), b"")


@attrs.frozen(kw_only=True)
class Opening:
    """What an `OpenComparison` says."""

    lower: Bound
    upper: Bound
    suggested: Bound | None
    fingerprint: bytes


def open_window(keys: KeySet, window: Window, *, upper: Bound, leave_out_latest: bool) -> Opening:
    """Return how to open a comparison of what this node keeps in agreement.

    Args:
        keys: what is here.
        window: what this node knows.
        upper: where to end.
        leave_out_latest: end earlier, before what may still be on its way by gossip.
    """
    lower = window.start(keys)
    if leave_out_latest:
        upper = min(upper, _before_latest(keys, window.unix_ms))
    upper = max(lower, upper)
    fingerprint = keys.summary(lower, upper).fingerprint()
    return Opening(lower=lower, upper=upper, suggested=window.suggested(keys), fingerprint=fingerprint)


def open_older(keys: KeySet, window: Window, *, upper: Bound, count: int) -> Opening:
    """Return how to open a comparison of the `count` messages before `upper`."""
    lower = min(upper, max(window.floor, _last(keys, upper, count)))
    fingerprint = keys.summary(lower, upper).fingerprint()
    return Opening(lower=lower, upper=upper, suggested=window.suggested(keys), fingerprint=fingerprint)


@attrs.frozen(kw_only=True)
class OpeningAnswer:
    """The answer to an `OpenComparison`, and what to remember of it.

    Attributes:
        lower: where the comparison begins.
        takes_from: what this node wants of what turns out to be lacking here begins here.
        answer: what to say, from `lower` on.
    """

    lower: Bound
    takes_from: Bound
    answer: Answer


def answer_opening(keys: KeySet, window: Window, frame: frames.OpenComparison) -> OpeningAnswer:
    """Return the answer to a neighbour that opens a comparison: of what both keep in agreement, or as it wants."""
    lower, takes_from = _meet(keys, window, frame)
    lower = min(lower, frame.upper)
    if lower == frame.upper:
        return OpeningAnswer(lower=lower, takes_from=takes_from, answer=Answer(claims=()))
    if lower == frame.lower:
        claims = (Fingerprint(frame.upper, frame.fingerprint),)
        return OpeningAnswer(
            lower=lower, takes_from=takes_from, answer=answer(keys, lower, claims, takes_from=takes_from)
        )
    mine = Fingerprint(frame.upper, keys.summary(lower, frame.upper).fingerprint())
    return OpeningAnswer(lower=lower, takes_from=takes_from, answer=Answer(claims=(mine,)))


def _meet(keys: KeySet, window: Window, frame: frames.OpenComparison) -> tuple[Bound, Bound]:
    """Return where the comparison begins, and from where on what is lacking here is wanted."""
    is_newcomer = window.known_from is None
    if frame.count:
        return max(frame.lower, _last(keys, frame.upper, frame.count)), HIGHEST if is_newcomer else window.start(keys)
    start = window.start(keys)
    if is_newcomer:
        lower = max(start, frame.lower, frame.suggested or LOWEST)
    else:
        suggested = window.suggested(keys) if frame.suggested is None else None
        lower = max(start, frame.lower, suggested or LOWEST)
    return lower, lower


def _last(keys: KeySet, upper: Bound, count: int) -> Bound:
    """Return where the `count` messages before `upper` begin."""
    key = keys.nth_newest(upper, count)
    return LOWEST if key is None else _before(key)


def _before_latest(keys: KeySet, unix_ms: int) -> Bound:
    """Return a place some seconds before now, or before the newest message if that is later."""
    newest = keys.nth_newest(HIGHEST, 1)
    latest_ms = unix_ms if newest is None else max(unix_ms, hlc_ms(newest[0]))
    return (make_hlc(max(0, latest_ms - round(RECONCILE_LAG_S * 1000))), b"")


def _before(key: tuple[int, MsgId]) -> Bound:
    """Return a short bound at or below a key."""
    return (key[0], b"")
