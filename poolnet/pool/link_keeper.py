"""Which links this device has in a pool, and how they come up: signal, probe, dial, serve.

Drives the pure `Mesh` machine. To dial a peer, this side sends it a signal with its own addresses (through the sync
server, or along the mesh while there is none), the peer answers with its addresses and probes back, and the QUIC
connection goes to the best address that answered. A link that is up is served by one task until it closes.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import assert_never

import trio

from poolnet.errors import LinkClosed, PoolnetError, ProtocolError, Refused, Unreachable, WireError
from poolnet.identity.keys import device_id_of
from poolnet.identity.membership import Membership
from poolnet.identity.statements import decode_statement_untrusted
from poolnet.ids import ID_SIZE, DeviceId, short_id
from poolnet.limits import DIAL_TIMEOUT_S
from poolnet.net.endpoint import Endpoint
from poolnet.net.link import Link
from poolnet.protocol import mesh
from poolnet.timer import Timer
from poolnet.wire.link_frames import Hello, Purpose
from poolnet.wire.signal import SESSION_SIZE, Signal, decode_signal_untrusted, encode_signal
from poolnet.wire.sync_frames import Address

logger = logging.getLogger(__name__)

#: How long a peer may take to answer a signal: twice through a server or across the mesh.
_SIGNAL_TIMEOUT_S = 4.0
#: Probing for others at once, and for one of them; a flood of signals costs no more than this.
_MAX_ANSWERS = 16
_MAX_ANSWERS_PER_PEER = 4


class LinkKeeper:
    """The links of one pool.

    Args:
        nursery: owns the tasks that dial and serve.
        signal: sends a signal body to a member, by whatever way there is.
        serve: runs a link until it closes; raises LinkClosed, ProtocolError or WireError when it does.
        unreachable: called with a peer to which no link comes up.
        changed: called when a link has come up or gone.
        faulted: called with a peer that broke the protocol, after its link is closed, and how.
        corrected_ms: returns what time it is by all that is known.
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        endpoint: Endpoint,
        membership: Membership,
        self_id: DeviceId,
        machine: mesh.Mesh,
        signal: Callable[[DeviceId, bytes], None],
        serve: Callable[[Link], Awaitable[None]],
        unreachable: Callable[[DeviceId], None],
        changed: Callable[[], None],
        corrected_ms: Callable[[], int],
        faulted: Callable[[DeviceId, PoolnetError], None] = lambda _peer, _error: None,
    ) -> None:
        self.links: dict[DeviceId, Link] = {}
        self.observed: Address | None = None
        self._nursery = nursery
        self._endpoint = endpoint
        self._membership = membership
        self._self_id = self_id
        self._mesh = machine
        self._signal = signal
        self._serve = serve
        self._unreachable = unreachable
        self._links_changed = changed
        self._corrected_ms = corrected_ms
        self._faulted = faulted
        self._since: dict[DeviceId, float] = {}
        self._answers: dict[bytes, tuple[DeviceId, trio.MemorySendChannel[Signal]]] = {}
        self._answering: dict[bytes, DeviceId] = {}
        self._changed = trio.Condition()
        self._timer = Timer(machine.next_deadline)

    def feed(self, event: mesh.MeshEvent) -> None:
        """Tell the mesh machine something and do what it says."""
        self._perform(self._mesh.handle(event, trio.current_time()))
        self._timer.rearm()

    def want_direct(self, peers: Iterable[DeviceId]) -> None:
        """Have links to some of these peers as well, as far as there is room, and to no others beyond the rings."""
        self.feed(mesh.WantDirect(frozenset(peers)))

    def is_steady(self, peer: DeviceId) -> bool:
        """Return whether a link to a peer is meant to stay."""
        return self._mesh.is_steady(peer)

    async def run_timer(self) -> None:
        """Dial again, close what is no longer needed. Runs until cancelled."""
        while True:
            await self._timer.wait()
            self._perform(self._mesh.tick(trio.current_time()))

    async def wait_linked(self) -> None:
        """Wait until there is at least one link."""
        async with self._changed:
            while not self.links:
                await self._changed.wait()

    def authorise(self, hello: Hello) -> tuple[bytes, ...]:
        """Decide on an incoming link from what its first frame says; return our own credentials.

        Raises:
            Refused: not a member, or no room.
        """
        peer = device_id_of(hello.public_key)
        if not self._membership.is_member(peer) and not self._is_admitted_by(hello):
            raise Refused("that device is not a member of this pool", code="not_a_member")
        if peer in self._mesh.shunned:
            raise Refused("that device broke the rules; try again later", code="misbehaved")
        if not self._mesh.may_accept(peer):
            raise Refused("no room for another link", code="too_many_links")
        return self._membership.credentials_of(self._self_id)

    def _is_admitted_by(self, hello: Hello) -> bool:
        """Return whether the credentials in `hello` make its sender a member, given what we know.

        They are judged on a copy: what does not admit its sender is not kept.
        """
        try:
            shown = [decode_statement_untrusted(encoded) for encoded in hello.credentials]
        except WireError:
            return False
        if all(statement.statement_id in self._membership for statement in shown):
            return False  # nothing new, and by what we have it is no member: not worth an evaluation
        candidate = self._membership.copy()
        candidate.add_in_time(shown, self._corrected_ms())
        return candidate.is_member(device_id_of(hello.public_key))

    async def adopt(self, link: Link) -> None:
        """Serve a link, dialled or accepted, until it closes. Of two links to one peer, one is kept."""
        existing = self.links.get(link.peer)
        if existing is not None and not existing.is_closed:
            loser = self._loser(existing, link)
            loser.close_now(code="duplicate", reason="another link between us is up")
            if loser is link:
                return
        self.links[link.peer] = link
        self._since[link.peer] = trio.current_time()
        self.feed(mesh.LinkUp(link.peer, link.is_dialler))
        self._links_changed()
        try:
            await self._notify()
            await self._serve(link)
        except LinkClosed as exc:
            logger.debug("link to %s closed: %s", short_id(link.peer), exc)
            if link.violation is not None:
                self._faulted(link.peer, link.violation)
        except (ProtocolError, WireError) as exc:
            logger.warning("closing the link to %s: %s", short_id(link.peer), exc)
            link.close_now(code="protocol", reason=str(exc))
            self._faulted(link.peer, exc)
        finally:
            link.close_now()  # unless it is closed: this pool is being left
            if self.links.get(link.peer) is link:
                del self.links[link.peer]
                self.feed(mesh.LinkDown(link.peer))
                self._links_changed()

    def _loser(self, existing: Link, new: Link) -> Link:
        """Both sides dialled at once: keep what the smaller id dialled.

        But if the peer was started anew since, or long after, or if the same side dialled both, the old link is a dead
        one: nobody dials whom it is linked to.
        """
        was_restarted = existing.peer_incarnation != new.peer_incarnation
        is_late = trio.current_time() - self._since[new.peer] > DIAL_TIMEOUT_S
        if was_restarted or is_late or existing.is_dialler == new.is_dialler:
            return existing
        smaller_dials = min(self._self_id, new.peer) == self._self_id
        return existing if new.is_dialler == smaller_dials else new

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _perform(self, effects: list[mesh.MeshEffect]) -> None:
        for effect in effects:
            match effect:
                case mesh.Dial(peer):
                    self._nursery.start_soon(self._dial, peer)
                case mesh.CloseLink(peer, reason):
                    if (link := self.links.get(peer)) is not None:
                        link.close_now(code="not_needed", reason=reason)
                case mesh.Unreachable(peer):
                    self._unreachable(peer)
                case _:
                    assert_never(effect)

    async def _dial(self, peer: DeviceId) -> None:
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                link = await self._connect(peer)
        except (Unreachable, Refused, ProtocolError, LinkClosed, trio.TooSlowError) as exc:
            logger.debug("no link to %s: %s", short_id(peer), exc)
            self.feed(mesh.DialFailed(peer))
            return
        await self.adopt(link)

    async def _connect(self, peer: DeviceId) -> Link:
        peer_key = self._membership.public_key_of(peer)
        if peer_key is None:
            raise Unreachable("its key is not known yet")
        session, probe_key = secrets.token_bytes(SESSION_SIZE), secrets.token_bytes(ID_SIZE)
        answer = await self._ask(peer, session, probe_key)
        path = await self._endpoint.probe(
            session=session, key=probe_key, candidates=answer.candidates, timeout_s=_SIGNAL_TIMEOUT_S
        )
        return await self._endpoint.dial(
            path.address,
            peer_key=peer_key,
            hello_purpose=Purpose.POOL,
            pool_id=self._membership.pool_id,
            credentials=self._membership.credentials_of(self._self_id),
            datagram_size=path.datagram_size,
        )

    async def _ask(self, peer: DeviceId, session: bytes, probe_key: bytes) -> Signal:
        """Send our candidates and wait for the peer's."""
        send, receive = trio.open_memory_channel[Signal](1)
        self._answers[session] = (peer, send)
        try:
            self._signal(peer, self._own_signal(session, probe_key, answer=False))
            with trio.move_on_after(_SIGNAL_TIMEOUT_S):
                return await receive.receive()
            raise Unreachable("it does not answer signals")
        finally:
            del self._answers[session]

    def _own_signal(self, session: bytes, probe_key: bytes, *, answer: bool) -> bytes:
        candidates = dict.fromkeys(self._endpoint.candidates())
        if self.observed is not None:
            candidates.setdefault(self.observed)
        return encode_signal(Signal(session=session, probe_key=probe_key, candidates=tuple(candidates), answer=answer))

    def signal_received(self, sender: DeviceId, body: bytes) -> None:
        """Take a signal from a member: an answer to ours, or a wish for a link, which is answered and probed."""
        try:
            signal = decode_signal_untrusted(body)
        except WireError as exc:
            logger.info("a malformed signal from %s: %s", short_id(sender), exc)
            return
        if signal.answer:
            asked, channel = self._answers.get(signal.session, (None, None))
            if channel is not None and asked == sender:
                try:
                    channel.send_nowait(signal)
                except trio.WouldBlock:
                    return  # answered already
        elif self._may_answer(sender, signal.session):
            self._answering[signal.session] = sender
            self._signal(sender, self._own_signal(signal.session, signal.probe_key, answer=True))
            self._nursery.start_soon(self._answer_probes, signal)

    def _may_answer(self, sender: DeviceId, session: bytes) -> bool:
        """Return whether a wish for a link is probed for: a new one, of somebody who may have it, among few others."""
        if session in self._answers or session in self._answering or len(self._answering) >= _MAX_ANSWERS:
            return False
        if list(self._answering.values()).count(sender) >= _MAX_ANSWERS_PER_PEER:
            return False
        return self._membership.is_member(sender) and self._mesh.may_accept(sender)

    async def _answer_probes(self, signal: Signal) -> None:
        try:
            await self._endpoint.probe(
                session=signal.session, key=signal.probe_key, candidates=signal.candidates, timeout_s=_SIGNAL_TIMEOUT_S
            )
        except Unreachable:
            pass  # the dialler reports it
        finally:
            del self._answering[signal.session]
