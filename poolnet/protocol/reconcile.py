"""Range-based set reconciliation: what two nodes have and lack of each other, at a cost that follows the difference.

Source: Meyer, "Range-Based Set Reconciliation" (2023). Two nodes compare fingerprints of a range of their histories,
ordered by key. Equal: done. Different: the range is cut into parts about equal in number, and these are compared, until
a range holds so few messages that they are listed. Each step is a function of what the other side claimed and of what
is here *now*: nothing is remembered between steps, and the histories may change meanwhile. A message that was on one
side all the time is found by the end.

What travels of a summary (key_set.py) is a hash, in which nothing can be added. Negentropy (the protocol of that name
for Nostr) has the same fingerprint, and the same limit on the size of an answer, where one fingerprint stands for all
that does not fit.

Here is one step; with whom and when is in agreement.py.
"""

from collections.abc import Sequence
from typing import assert_never

import attrs

from poolnet.errors import WireError
from poolnet.ids import ID_SIZE, MsgId
from poolnet.limits import (
    MAX_CLAIMS_PER_FRAME,
    MAX_COMPARE_SIZE,
    MAX_COMPARED_IDS,
    RECONCILE_BRANCHING,
    RECONCILE_LIST_BELOW,
)
from poolnet.protocol.key_set import KeySet, MemoryKeys, Summary, ids_of, separator, summary_of
from poolnet.wire.claims import HIGHEST, LOWEST, Bound, Claim, Equal, Fingerprint, Listing, More, size_of

__all__ = [
    "HIGHEST",
    "LOWEST",
    "Answer",
    "Bound",
    "KeySet",
    "MemoryKeys",
    "Summary",
    "answer",
    "check_claims",
    "separator",
    "summary_of",
]

#: Room for what comes with a page of ids: two bounds and a fingerprint.
_PAGE_OVERHEAD = 128
#: An answer has room for a page of so many ids that it gets on.
_LEAST_SIZE = 1024


@attrs.frozen(kw_only=True)
class Answer:
    """What to say to claims, and what they tell.

    Attributes:
        claims: about ranges that follow each other from where the claims answered begin. What is not spoken of at the
            end is settled.
        lacking: what the other side has and is not here.
        agreed: ranges in which both have the same.
    """

    claims: tuple[Claim, ...]
    lacking: tuple[MsgId, ...] = ()
    agreed: tuple[tuple[Bound, Bound], ...] = ()

    @property
    def asks(self) -> bool:
        """Whether an answer to this must come."""
        return any(isinstance(claim, Fingerprint | Listing) for claim in self.claims)


def check_claims(lower: Bound, claims: Sequence[Claim]) -> None:
    """Check that claims of another node are about ranges that follow each other from `lower`.

    Raises:
        WireError: they are not.
    """
    for claim in claims:
        if claim.upper <= lower:
            raise WireError("claims about ranges that do not ascend")
        lower = claim.upper


def answer(
    keys: KeySet, lower: Bound, claims: Sequence[Claim], *, takes_from: Bound, max_size: int = MAX_COMPARE_SIZE
) -> Answer:
    """Return what to say to claims that begin at `lower`, from what is here now.

    What does not fit in about `max_size` bytes is left for later by one fingerprint of the rest.

    Args:
        keys: what is here.
        lower: where the first range begins.
        claims: those of the other side, checked by `check_claims`.
        takes_from: what is lacking in ranges below this is not wanted.
        max_size: of the claims returned, in bytes.
    """
    result = _Draft(max_size)
    for claim in claims:
        piece = _respond(keys, lower, claim, result.room)
        if piece is None or not result.fits(piece.claims):
            rest = keys.summary(lower, claims[-1].upper)
            result.say(Fingerprint(claims[-1].upper, rest.fingerprint()))
            break
        for said in piece.claims:
            result.say(said)
        if piece.is_agreed:
            result.agree(lower, claim.upper)
        if lower >= takes_from:
            result.lacking.extend(piece.lacking)
        lower = claim.upper
    return result.finish()


@attrs.frozen
class _Piece:
    """The response to one claim."""

    claims: list[Claim]
    lacking: list[MsgId] = attrs.Factory(list)
    is_agreed: bool = False


class _Draft:
    """An answer in the making; ranges of the same kind that touch are made one."""

    def __init__(self, max_size: int) -> None:
        self.room = max(max_size, _LEAST_SIZE)
        self.lacking: list[MsgId] = []
        self._claims: list[Claim] = []
        self._agreed: list[tuple[Bound, Bound]] = []

    def fits(self, claims: Sequence[Claim]) -> bool:
        if not self._claims:
            return True
        is_short = len(self._claims) + len(claims) < MAX_CLAIMS_PER_FRAME
        return is_short and sum(map(size_of, claims)) <= self.room

    def say(self, claim: Claim) -> None:
        last = self._claims[-1] if self._claims else None
        if (isinstance(claim, Equal) and isinstance(last, Equal)) or (_is_silent(claim) and _is_silent(last)):
            self._claims[-1] = claim
        else:
            self._claims.append(claim)
            self.room -= size_of(claim)

    def agree(self, lower: Bound, upper: Bound) -> None:
        if self._agreed and self._agreed[-1][1] == lower:
            lower = self._agreed.pop()[0]
        self._agreed.append((lower, upper))

    def finish(self) -> Answer:
        while self._claims and _is_silent(self._claims[-1]):
            self._claims.pop()
        return Answer(claims=tuple(self._claims), lacking=tuple(self.lacking), agreed=tuple(self._agreed))


def _is_silent(claim: Claim | None) -> bool:
    return isinstance(claim, More) and not claim.ids


def _respond(keys: KeySet, lower: Bound, claim: Claim, room: int) -> _Piece | None:
    """Return the response to one claim about [lower, claim.upper), or None if a useful one does not fit in `room`."""
    match claim:
        case Equal(upper):
            return _Piece([More(upper)], is_agreed=True)
        case Fingerprint(upper, fingerprint):
            mine = keys.summary(lower, upper)
            if mine.fingerprint() == fingerprint:
                return _Piece([Equal(upper)], is_agreed=True)
            return _Piece(_describe(keys, lower, upper, mine.count))
        case Listing(upper, ids):
            return _complete(keys, lower, upper, ids) if ids else _page(keys, lower, upper, room)
        case More(upper, ids):
            here = {key[1] for key in keys.keys(lower, upper, 2 * MAX_COMPARED_IDS)} if ids else frozenset()
            return _Piece([More(upper)], [msg_id for msg_id in ids if msg_id not in here])
        case _:
            assert_never(claim)


def _describe(keys: KeySet, lower: Bound, upper: Bound, count: int) -> list[Claim]:
    """Return claims about a range in which the two sides differ: all of a few keys, or fingerprints of parts."""
    if count <= RECONCILE_LIST_BELOW:
        return [Listing(upper, ids_of(keys.keys(lower, upper, RECONCILE_LIST_BELOW)))]
    branches = min(RECONCILE_BRANCHING, -(-count // RECONCILE_LIST_BELOW))
    parts = keys.parts(lower, upper, branches)
    return [Fingerprint(part_upper, summary.fingerprint()) for part_upper, summary in parts]


def _complete(keys: KeySet, lower: Bound, upper: Bound, ids: Sequence[MsgId]) -> _Piece:
    """Answer a list with what is here besides; if that is too much to compare, with parts of it."""
    mine = ids_of(keys.keys(lower, upper, MAX_COMPARED_IDS + 1))
    if len(mine) > MAX_COMPARED_IDS:
        return _Piece(_describe(keys, lower, upper, keys.summary(lower, upper).count))
    here, listed = frozenset(mine), frozenset(ids)
    lacking = [msg_id for msg_id in ids if msg_id not in here]
    surplus = tuple(msg_id for msg_id in mine if msg_id not in listed)
    if not lacking and not surplus:
        return _Piece([Equal(upper)], is_agreed=True)
    return _Piece([More(upper, surplus)], lacking)


def _page(keys: KeySet, lower: Bound, upper: Bound, room: int) -> _Piece | None:
    """Answer an empty list with all that is here, or what there is room for and a fingerprint of the rest."""
    limit = (room - _PAGE_OVERHEAD) // ID_SIZE
    if limit < RECONCILE_LIST_BELOW:
        return None
    mine = keys.keys(lower, upper, limit + 1)
    if not mine:
        return _Piece([Equal(upper)], is_agreed=True)
    if len(mine) <= limit:
        return _Piece([More(upper, ids_of(mine))])
    end = separator(mine[-2], mine[-1])
    rest = keys.summary(end, upper)
    return _Piece([More(end, ids_of(mine[:-1])), Fingerprint(upper, rest.fingerprint())])
