"""The messages of a simulated node: gossip, agreement and held messages, as poolnet/pool/message_flow.py drives them.

What gossip and agreement bring is judged, held while it is ahead of the time, and stored; what the disk does not take
waits. Methods named `_perform_` show what a driver does with effects: nothing but that.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, assert_never

from poolnet.clock import Hlc
from poolnet.errors import WireError
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import MAX_QUEUED_FRAMES, OLD_AFTER_S
from poolnet.protocol import agreement, gossip
from poolnet.protocol.holding import HeldMessages
from poolnet.protocol.quota import AuthorQuota
from poolnet.testing import sim_messages
from poolnet.testing.sim_clock import SimClock
from poolnet.testing.sim_life import SimLife
from poolnet.testing.sim_store import MessageRecord, Record, SimStore, StartRecord
from poolnet.testing.sim_timer import SimTimer
from poolnet.wire import pool_frames as frames

#: A look into a database takes up to this.
_LONGEST_STEP_S = 0.002
#: When a disk that failed is tried again (poolnet/pool/storing.py).
_RETRY_S = 5.0


class Arrivals(Protocol):
    """Who hears what became of messages."""

    fetched_twice: int

    def message_stored(self, msg_id: MsgId, hops: int) -> None:
        """A message is in the history; it came over so many links (0: own, or fetched)."""

    def disk_has_room(self) -> None:
        """What waited for the disk is written; links that were held back may go on."""


Vet = Callable[[DeviceId, Hlc], gossip.Verdict]


def _everyone_may(_author: DeviceId, _hlc: Hlc) -> gossip.Verdict:
    return gossip.Verdict.ACCEPT


class SimTalk:
    """The messages of one node in one life.

    Args:
        life: where it is.
        store: what it has.
        clock: its time.
        arrivals: told what becomes of messages.
        vet: returns whether somebody may have said something at that time.
    """

    def __init__(
        self, life: SimLife, store: SimStore, clock: SimClock, arrivals: Arrivals, *, vet: Vet = _everyone_may
    ) -> None:
        network = life.network
        self._life = life
        self._store = store
        self._clock = clock
        self._arrivals = arrivals
        self._vet = vet
        #: Requests that are answered, and how.
        self.finished: dict[int, bool] = {}
        #: How far those came that are not stored yet.
        self._hops: dict[MsgId, int] = {}
        self.quota = AuthorQuota()
        self.gossip = gossip.Gossip(
            network.random_for(life.host_id.hex()),
            sim_messages.identify,
            self._judge,
            judge_fetched=self._judge_fetched,
        )
        self.gossip.mark_seen(store.history)
        self.held = HeldMessages(clock.hybrid)
        self._rng = network.random_for(f"agreement of {life.host_id.hex()}")
        self.agreement = agreement.Agreement(
            self._rng,
            unix_ms=clock.corrected_ms,
            is_pending=store.is_pending,
            is_held=self.held.__contains__,
            known_from=store.known_from,
        )
        self._gossip_timer = SimTimer(network, self.gossip.next_deadline, self._tick_gossip)
        self._agreement_timer = SimTimer(network, self.agreement.next_deadline, self._tick_agreement)
        self._held_timer = SimTimer(network, self._held_deadline, self._release)
        self._is_retrying = False

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the disk that nothing more is taken off the links."""
        return self._store.unsaved >= MAX_QUEUED_FRAMES

    def end(self) -> None:
        """Do nothing any more."""
        for timer in (self._gossip_timer, self._agreement_timer, self._held_timer):
            timer.stop()

    def publish(self, text: bytes, author: DeviceId) -> MsgId:
        """Store a message and push it to the neighbours.

        Raises:
            StoreError: it cannot be stored, and is nowhere.
        """
        self._store.disk.check_sync()
        encoded = sim_messages.make_message(self._clock.hybrid.tick(self._clock.unix_ms()), author, text)
        msg_id = sim_messages.identify(encoded)
        record = MessageRecord(msg_id, encoded)
        self._store.write(record)
        self._written(record)
        self._handle_gossip(gossip.Publish(msg_id, encoded))
        return msg_id

    # --- what happens -------------------------------------------------------------------------------------------

    def link_up(self, peer: DeviceId, *, is_dialler: bool, is_steady: bool) -> None:
        """Begin to gossip and to compare."""
        self._handle_gossip(gossip.LinkUp(peer, is_steady))
        self.handle_agreement(agreement.LinkUp(peer, is_dialler))

    def link_down(self, peer: DeviceId) -> None:
        """Stop with a neighbour."""
        self.handle_agreement(agreement.LinkDown(peer))
        self._handle_gossip(gossip.LinkDown(peer))

    def received(self, peer: DeviceId, frame: Any) -> None:
        """Take a frame about messages."""
        match frame:
            case frames.Messages():
                self._take(peer, frame)
            case frames.OpenComparison() | frames.Compare() | frames.WantMessages():
                self.handle_agreement(agreement.Received(peer, frame))
            case _:
                self._handle_gossip(gossip.Received(peer, frame))

    def clock_changed(self) -> None:
        """Look again when something is due: what time it is has changed."""
        self._held_timer.rearm()

    def membership_changed(self) -> None:
        """Forget what those said who were out by then."""
        for hlc, msg_id in list(self._store.keys):
            if self._vet(sim_messages.author_of(self._store.history[msg_id]), hlc) is not gossip.Verdict.ACCEPT:
                self._store.remove(msg_id)

    # --- machines -----------------------------------------------------------------------------------------------

    def _handle_gossip(self, event: gossip.GossipEvent) -> None:
        self._perform_gossip(self.gossip.handle(event, self._life.now))
        self._gossip_timer.rearm()

    def handle_agreement(self, event: agreement.AgreementEvent) -> None:
        """Tell the agreement machine something."""
        self._perform_agreement(self.agreement.handle(event, self._life.now))
        self._agreement_timer.rearm()

    def _perform_gossip(self, effects: list[gossip.GossipEffect]) -> None:
        for effect in effects:
            match effect:
                case gossip.SendFrame(peer, frame):
                    self._life.send(peer, frame)
                case gossip.Deliver(msg_id, message, _, hops):
                    self._keep(msg_id, message, hops)
                case gossip.Lookup(peer, ids):
                    history = self._store.history
                    found = tuple((msg_id, history[msg_id]) for msg_id in ids if msg_id in history)
                    self._perform_gossip(self.gossip.handle(gossip.Found(peer, found), self._life.now))
                case gossip.Deferred(peer):
                    self.handle_agreement(agreement.Deferred(peer))
                case gossip.Misbehaved():
                    self._life.blame(effect, closes_link=True)
                case _:
                    assert_never(effect)

    def _perform_agreement(self, effects: list[agreement.AgreementEffect]) -> None:
        for effect in effects:
            match effect:
                case agreement.SendFrame(peer, frame):
                    self._life.send(peer, frame)
                case agreement.Step():
                    delay_s = _LONGEST_STEP_S * self._rng.random()
                    self._life.network.call_later(delay_s, partial(self._step, effect))
                case agreement.Serve():
                    self._serve(effect)
                case agreement.Finished(request, ok):
                    self.finished[request] = ok
                case agreement.KnownFrom(bound):
                    self._write(StartRecord(bound))
                case agreement.Agreed():
                    pass
                case agreement.Misbehaved():
                    self._life.blame(effect, closes_link=True)
                case _:
                    assert_never(effect)

    def _step(self, effect: agreement.Step) -> None:
        if not self._life.is_over:
            self.handle_agreement(agreement.Stepped(effect.step, effect.call(self._store.keys)))

    def _serve(self, effect: agreement.Serve) -> None:
        history = self._store.history
        messages = [history[msg_id] for msg_id in effect.ids if msg_id in history]
        for frame in agreement.pack_messages(effect.number, messages):
            self._life.send(effect.peer, frame)
        self.handle_agreement(agreement.Served(effect.peer, effect.number))

    # --- messages in --------------------------------------------------------------------------------------------

    def _take(self, peer: DeviceId, frame: frames.Messages) -> None:
        """Take messages that were asked for: they are judged and kept like any others, then told to have arrived."""
        try:
            ids = tuple(sim_messages.identify(message) for message in frame.messages)
        except WireError as exc:
            self._life.blame(agreement.Misbehaved(peer, str(exc)), closes_link=True)
            return
        for msg_id, message in zip(ids, frame.messages, strict=True):
            self._arrivals.fetched_twice += msg_id in self._store.history
            self._handle_gossip(gossip.Fetched(peer, msg_id, message))
        self.handle_agreement(agreement.Arrived(peer, frame.number, ids, frame.is_last))

    def _keep(self, msg_id: MsgId, encoded: bytes, hops: int) -> None:
        """Store a message, or hold it until its time comes."""
        self._hops.setdefault(msg_id, hops)
        if self.held.admit(sim_messages.decode(msg_id, encoded), self._clock.unix_ms()):
            self._store_message(msg_id, encoded)
        else:
            self._held_timer.rearm()
            if msg_id not in self.held:
                del self._hops[msg_id]  # there are too many of them
            self.handle_agreement(agreement.Stored((msg_id,)))

    def _store_message(self, msg_id: MsgId, encoded: bytes) -> None:
        if msg_id in self._store.history:
            self._settled(msg_id)
        elif not self._store.is_pending(msg_id):
            self._write(MessageRecord(msg_id, encoded))

    def _write(self, record: Record) -> None:
        if self._store.write_when_possible(record):
            self._written(record)
        elif not self._is_retrying:
            self._is_retrying = True
            self._life.network.call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._is_retrying = False
        if self._life.is_over:
            return
        self._store.save(self._written)
        if self._store.unsaved:
            self._is_retrying = True
            self._life.network.call_later(_RETRY_S, self._retry)
        if not self.is_full:
            self._arrivals.disk_has_room()

    def _written(self, record: Record) -> None:
        if isinstance(record, MessageRecord):
            self._arrivals.message_stored(record.msg_id, self._hops.get(record.msg_id, 0))
            self._settled(record.msg_id)

    def _settled(self, msg_id: MsgId) -> None:
        self._hops.pop(msg_id, None)
        self.handle_agreement(agreement.Stored((msg_id,)))

    # --- time ---------------------------------------------------------------------------------------------------

    def _held_deadline(self) -> float | None:
        wait_s = self.held.wait_s(self._clock.unix_ms()) if self.held else None
        return None if wait_s is None else self._life.now + wait_s + 0.001

    def _release(self) -> None:
        for message in self.held.release(self._clock.unix_ms()):
            if self._judge_fetched(message.msg_id, message.signed) is gossip.Verdict.ACCEPT:  # its author may be out
                self._store_message(message.msg_id, message.signed)

    def _tick_gossip(self) -> None:
        self._perform_gossip(self.gossip.tick(self._life.now))

    def _tick_agreement(self) -> None:
        self._perform_agreement(self.agreement.tick(self._life.now))

    def _judge(self, msg_id: MsgId, encoded: bytes) -> gossip.Verdict:
        author, (hlc, _) = sim_messages.author_of(encoded), sim_messages.key_of(msg_id, encoded)
        is_old = self._clock.hybrid.ahead_s(hlc, self._clock.unix_ms()) < -OLD_AFTER_S
        if not self.quota.has_some(author, self._life.now, is_old=is_old):
            return gossip.Verdict.DEFER
        verdict = self._judge_fetched(msg_id, encoded)
        if verdict is gossip.Verdict.ACCEPT:
            self.quota.spend(author, len(encoded), self._life.now, is_old=is_old)
        return verdict

    def _judge_fetched(self, msg_id: MsgId, encoded: bytes) -> gossip.Verdict:
        if not sim_messages.is_genuine(encoded):
            return gossip.Verdict.REJECT
        return self._vet(sim_messages.author_of(encoded), sim_messages.key_of(msg_id, encoded)[0])
