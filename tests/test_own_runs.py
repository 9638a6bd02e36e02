"""The comparisons that one node has begun: neighbours and the database do what a test has them do, and when."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import RECONCILE_PATIENCE_S, RECONCILE_TURN_S
from poolnet.protocol.agenda import Agenda
from poolnet.protocol.agreement_events import AgreementEffect, SendFrame
from poolnet.protocol.fetching import Fetching
from poolnet.protocol.history_start import HistoryStart
from poolnet.protocol.key_set import KeySet, MemoryKeys
from poolnet.protocol.own_runs import OwnRuns
from poolnet.wire.claims import HIGHEST, LOWEST, Claim, Fingerprint, More
from poolnet.wire.framing import FrameSet, encode_frame
from poolnet.wire.pool_frames import POOL_FRAMES, Compare, OpenComparison

ANN, BOB, CID = (DeviceId(bytes([number]) * 32) for number in (1, 2, 3))
WANTED, OTHER = MsgId(bytes([8]) * 32), MsgId(bytes([9]) * 32)
#: Not yet too long for others to wait for a neighbour that says nothing; and a moment later, when it is.
ALMOST_S, AFTER_S = RECONCILE_PATIENCE_S - 0.1, RECONCILE_PATIENCE_S + 0.1


class Runs:
    """The runs of a node that has nothing and is to compare with each of `peers`; its database waits for `step`."""

    def __init__(self, *peers: DeviceId) -> None:
        self.agenda, fetching = Agenda(Random(1)), Fetching()
        for peer in peers:
            self.agenda.link_up(peer, 0.0, is_due=True)
            fetching.link_up(peer)
        self.now = 0.0
        self.pending: list[MsgId] = []
        self.steps: list[tuple[Callable[[KeySet], Any], Callable[[Any, float], None]]] = []
        self.told: list[AgreementEffect] = []
        self.runs = OwnRuns(
            agenda=self.agenda,
            fetching=fetching,
            start=HistoryStart(known_from=LOWEST, floor=LOWEST, is_whole=True),
            unix_ms=lambda: 1_750_000_000_000,
            is_pending=self.pending.__contains__,
            step=lambda call, take: self.steps.append((call, take)),
            tell=self.told.append,
            note=lambda run, result, now: list(self.pending),
        )

    def wait_until(self, now: float) -> None:
        self.now = now
        self.runs.tick(now)
        self.runs.advance(now)

    def step(self) -> None:
        """Let the database do all that it has to do."""
        while self.steps:
            call, take = self.steps.pop(0)
            take(call(MemoryKeys()), self.now)
        self.runs.advance(self.now)

    def answer(self, peer: DeviceId, *claims: Claim, run: int) -> None:
        frame = Compare(run=run, is_answer=True, lower=LOWEST, claims=claims, known_from=LOWEST)
        assert self.runs.take_answer(peer, frame, self.now)
        self.runs.advance(self.now)

    def sent(self, kind: type) -> list[Any]:
        return [effect for effect in self.told if isinstance(effect, SendFrame) and isinstance(effect.frame, kind)]

    def opened(self) -> list[DeviceId]:
        """Return with whom runs have begun."""
        return [effect.peer for effect in self.sent(OpenComparison)]


def begun_with(*peers: DeviceId) -> Runs:
    runs = Runs(*peers)
    runs.wait_until(0.0)
    runs.step()
    assert runs.opened() == [peers[0]]
    return runs


def test_others_wait_for_a_neighbour_that_is_busy_with_what_it_got() -> None:
    runs = begun_with(ANN, BOB)
    runs.wait_until(ALMOST_S)
    runs.runs.heard(ANN, runs.now)
    runs.runs.heard(CID, runs.now)  # with whom nothing is done
    runs.wait_until(AFTER_S)
    runs.step()
    assert runs.opened() == [ANN]
    runs.wait_until(ALMOST_S + RECONCILE_PATIENCE_S)
    runs.step()
    assert runs.opened() == [ANN, BOB]


@pytest.mark.parametrize(
    ("peer", "ids", "holds_up"),
    [(ANN, [], True), (ANN, [OTHER], True), (CID, [WANTED], True), (CID, [OTHER], False), (CID, [], False)],
    ids=[
        "nothing wanted",
        "something else",
        "it, from another",
        "something else, from another",
        "nothing, from another",
    ],
)
def test_a_run_gets_on_with_what_its_neighbour_brings_and_with_what_it_waits_for_whoever_brings_that(
    peer: DeviceId, ids: list[MsgId], *, holds_up: bool
) -> None:
    runs = begun_with(ANN, BOB)
    runs.pending.append(WANTED)
    runs.answer(ANN, More(HIGHEST, (WANTED,)), run=1)
    runs.step()
    runs.wait_until(ALMOST_S)
    runs.runs.arrived(peer, ids, runs.now)
    runs.wait_until(AFTER_S)
    runs.step()
    assert runs.opened() == ([ANN] if holds_up else [ANN, BOB])


def test_a_cancelled_request_breaks_off_what_is_done_for_it_and_nothing_else() -> None:
    runs = begun_with(ANN, BOB)
    runs.agenda.told(BOB, LOWEST)  # so Bob is asked
    runs.agenda.fetch_older(7, HIGHEST, 50)
    runs.wait_until(0.1)
    runs.step()
    assert [(effect.peer, effect.frame.count) for effect in runs.sent(OpenComparison)] == [(ANN, 0), (BOB, 50)]
    for request in (8, 7):
        runs.agenda.cancel(request)
        runs.runs.cancel(request, runs.now)
    runs.answer(BOB, Fingerprint(HIGHEST, bytes(16)), run=2)
    assert not runs.steps, "an answer that nobody waits for any more"
    runs.answer(ANN, Fingerprint(HIGHEST, bytes(16)), run=1)
    assert len(runs.steps) == 1


def test_a_run_is_not_given_up_while_the_database_is_busy_with_it() -> None:
    runs = Runs(ANN, BOB)
    runs.wait_until(0.0)
    runs.wait_until(2 * RECONCILE_TURN_S)
    runs.step()
    assert runs.opened() == [ANN], "what it opens with took that long"
    runs = begun_with(ANN, BOB)
    runs.answer(ANN, Fingerprint(HIGHEST, bytes(16)), run=1)
    runs.wait_until(2 * RECONCILE_TURN_S)
    runs.step()
    assert [effect.peer for effect in runs.sent(Compare)] == [ANN]
    assert runs.opened() == [ANN]


def test_the_number_of_a_run_fits_its_field_however_many_there_were() -> None:
    runs = Runs(ANN)
    runs.runs.begun = 2**32 - 1
    runs.wait_until(0.0)
    runs.step()
    (opening,) = (effect.frame for effect in runs.sent(OpenComparison))
    assert FrameSet(POOL_FRAMES).decode_untrusted(encode_frame(opening)[4:]) == opening
    runs.answer(ANN, Fingerprint(HIGHEST, bytes(16)), run=opening.run)
    assert len(runs.steps) == 1
