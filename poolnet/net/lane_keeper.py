"""Gives each link its lane: who offers, who dials, what happens when it does not work or when it ends.

The side that was dialled over QUIC offers first: it is the more likely one to be reachable. If the other cannot reach
it, that one offers; if neither can be reached there is no lane, and the first side offers again after `LANE_RETRY_S`,
as it does after a lane ended; who ended it because its key was worn out offers another at once. `LanePass` says "I
cannot reach you, or cannot be dialled". A lane that ended is settled before anything else: each side says what arrived
on it, and sends the rest again (chunk_ways.py).
"""

import logging
import math
import secrets
from contextlib import suppress

import attrs
import trio

from poolnet.errors import LinkClosed, ProtocolError, Unreachable
from poolnet.identity.keys import DeviceKey
from poolnet.ids import short_id
from poolnet.limits import LANE_END_TIMEOUT_S, LANE_OFFER_TIMEOUT_S, LANE_RETRY_S
from poolnet.net.addresses import SocketAddress, host_addresses
from poolnet.net.bulk_lane import BulkLane
from poolnet.net.lane_dialler import dial_lane
from poolnet.net.lane_listener import LaneListener, ListenerStatistics, listening_socket
from poolnet.net.link import LaneFrame, Link
from poolnet.net.tls_socket import TlsSocket, listening_context
from poolnet.service import open_service_nursery
from poolnet.wire.link_frames import LANE_ID_SIZE, LANE_TOKEN_SIZE, LaneEnded, LaneOffer, LanePass

log = logging.getLogger(__name__)

#: Events that wait: an honest side sends three frames at most before it hears of us.
_MAX_WAITING = 8
#: Who offers more often is not dialled, so that nobody makes us connect to many addresses.
_MIN_DIAL_INTERVAL_S = LANE_RETRY_S / 2


class Lanes:
    """The lanes of all links of one endpoint.

    Args:
        key: of this device.
        udp: where the UDP socket is bound; the TCP port is on the same host.
        nursery: runs everything.
    """

    def __init__(self, key: DeviceKey, udp: SocketAddress, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._udp = udp
        self._listener: LaneListener | None = None
        context = listening_context(key)
        listening = listening_socket(udp)
        if listening is None:
            log.warning("no TCP port on %s: others cannot dial this device for lanes", udp[0])
        else:
            self._listener = LaneListener(listening, context)
            nursery.start_soon(self._listener.run)

    def keep(self, link: Link) -> None:
        """Give a link that just came up a lane, as long as it lives."""
        keeper = LaneKeeper(link, self._listener, self._udp)
        link.set_lane_handler(keeper.handle)
        self._nursery.start_soon(keeper.run)

    def statistics(self) -> ListenerStatistics:
        """Return counts of the listener; zeros if there is none."""
        return ListenerStatistics() if self._listener is None else attrs.evolve(self._listener.statistics)


@attrs.frozen
class _Arrived:
    """The other side dialled, and showed the token."""

    lane_id: bytes
    tls: TlsSocket


class LaneKeeper:
    """The lane of one link."""

    def __init__(self, link: Link, listener: LaneListener | None, udp: SocketAddress) -> None:
        self._link = link
        self._listener = listener
        self._udp = udp
        self._put, self._events = trio.open_memory_channel[LaneFrame | _Arrived](_MAX_WAITING)
        self._offer: LaneOffer | None = None  # that the other side may dial
        self._has_offered = False  # or passed, since the last rest
        self._due = math.inf if link.is_dialler else -math.inf
        self._dialled_at = -math.inf
        self._offered_lane = self._dialled_lane = b""
        self._told_end = b""
        self._kept: LaneOffer | LanePass | None = None  # came while a lane was settled

    def handle(self, frame: LaneFrame) -> None:
        """Take a frame about lanes.

        Raises:
            ProtocolError: too many of them.
        """
        try:
            self._put.send_nowait(frame)
        except trio.WouldBlock:
            raise ProtocolError("too many frames about lanes") from None
        except trio.BrokenResourceError:
            log.debug("a frame about lanes on a link that is closing")

    async def run(self) -> None:
        """See that the link has a lane if possible, until it is closed."""
        try:
            async with open_service_nursery() as nursery:
                nursery.start_soon(self._keep)
                await self._link.wait_closed()
        finally:
            self._withdraw()
            self._close_unused()

    async def _keep(self) -> None:
        while True:
            match await self._next_event():
                case None if self._has_offered:
                    self._rest()
                case None:
                    self._make_offer()
                case _Arrived(lane_id, tls):
                    await self._use(lane_id, tls)
                case LaneOffer() as offer:
                    await self._take_offer(offer)
                case LanePass():
                    self._take_turn()
                case LaneEnded() as end:
                    self._answer_late(end)

    async def _next_event(self) -> LaneFrame | _Arrived | None:
        """Return what happens next; None when something is due."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        with trio.move_on_at(self._due):
            return await self._events.receive()
        return None

    # --- how a lane comes about -------------------------------------------------------------------------------------

    def _make_offer(self) -> None:
        """Offer a lane, or say that we cannot be dialled."""
        self._withdraw()
        self._has_offered = True
        self._due = trio.current_time() + LANE_OFFER_TIMEOUT_S
        if self._listener is None:
            self._link.tell_lane(LanePass())
            return
        offer = self._offer = LaneOffer(
            lane_id=secrets.token_bytes(LANE_ID_SIZE),
            token=secrets.token_bytes(LANE_TOKEN_SIZE),
            port=self._listener.port,
            hosts=tuple(host for host, _ in host_addresses(self._udp)),
        )
        self._offered_lane = offer.lane_id
        self._listener.expect(offer, lambda tls: self._arrived(offer.lane_id, tls))
        self._link.tell_lane(offer)

    def _take_turn(self) -> None:
        """Do what is next when the other side has passed, or cannot be reached."""
        if self._has_offered:
            self._rest()
        else:
            self._make_offer()

    async def _take_offer(self, offer: LaneOffer) -> None:
        """Dial; if that fails, say so by an offer of our own, or by passing."""
        now = trio.current_time()
        if now - self._dialled_at >= _MIN_DIAL_INTERVAL_S:
            self._dialled_at = now
            self._dialled_lane = offer.lane_id
            try:
                tls = await dial_lane(offer, self._link.remote_address[0], self._link.peer_key)
            except Unreachable as exc:
                log.debug("no lane to %s: %s", short_id(self._link.peer), exc)
            else:
                await self._use(offer.lane_id, tls)
                return
        if self._has_offered:
            self._link.tell_lane(LanePass())
        self._take_turn()

    def _rest(self) -> None:
        """Wait for the next round; who was dialled over QUIC begins it."""
        self._withdraw()
        self._has_offered = False
        self._due = math.inf if self._link.is_dialler else trio.current_time() + LANE_RETRY_S

    def _withdraw(self) -> None:
        if self._offer is not None and self._listener is not None:
            self._listener.forget(self._offer)
        self._offer = None

    def _arrived(self, lane_id: bytes, tls: TlsSocket) -> None:
        try:
            self._put.send_nowait(_Arrived(lane_id, tls))
        except (trio.WouldBlock, trio.BrokenResourceError):
            tls.close()

    def _close_unused(self) -> None:
        """Take no more events, and close connections that came too late."""
        with suppress(trio.WouldBlock):
            while True:
                event = self._events.receive_nowait()
                if isinstance(event, _Arrived):
                    event.tls.close()
        self._events.close()

    # --- a lane in use ----------------------------------------------------------------------------------------------

    async def _use(self, lane_id: bytes, tls: TlsSocket) -> None:
        """Run a lane until it ends, settle what was under way, and rest."""
        self._withdraw()
        link, chunks = self._link, self._link.chunks
        lane = BulkLane(tls, chunks.ledger, chunks.inbox, count_in=link.lane_read, count_out=link.lane_written)
        chunks.lane_up(lane)
        log.debug("link to %s: chunks go over TCP", short_id(link.peer))
        arrived = await self._run_lane(lane, lane_id)
        chunks.lane_down(lane)
        log.debug("link to %s: the lane ended", short_id(link.peer))
        if lane.violation is not None:
            link.violated(lane.violation)
            return
        await self._settle(lane_id, arrived)
        self._rest()
        if lane.is_worn_out:
            self._due = trio.current_time()

    async def _settle(self, lane_id: bytes, arrived: int | None) -> None:
        """Tell what arrived on a lane that ended, hear the same (unless that is known), and send the rest again."""
        link = self._link
        self._tell_end(lane_id)
        with trio.move_on_after(LANE_END_TIMEOUT_S):
            if arrived is None:
                arrived = await self._wait_for_end(lane_id)
        if arrived is None:  # gone, as far as anybody can tell
            link.close_now(code="timeout", reason="nobody said what arrived on a lane that ended")
            return
        try:
            await self._resume(arrived)
        except ProtocolError as exc:
            link.violated(exc)
        except LinkClosed:
            log.debug("link to %s: closed while a lane was settled", short_id(link.peer))

    async def _resume(self, arrived: int) -> None:
        """Send again what did not arrive, which may take as long as the other application likes."""
        async with open_service_nursery() as nursery:
            nursery.start_soon(self._keep_newest)
            await self._link.chunks.resume(arrived)

    async def _keep_newest(self) -> None:
        """Take events while a lane is settled: of what the other side says about the next lane, the newest counts."""
        while True:
            match await self._events.receive():
                case LaneOffer() | LanePass() as kept:
                    self._kept = kept
                case _Arrived(_, tls):
                    tls.close()
                case LaneEnded() as end:
                    self._answer_late(end)

    async def _run_lane(self, lane: BulkLane, lane_id: bytes) -> int | None:
        """Run a lane; return what the other side says arrived, if it was the one to end it."""
        arrived = None

        async def run() -> None:
            await lane.run()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            arrived = await self._wait_for_end(lane_id)
            nursery.cancel_scope.cancel()
        return arrived

    async def _wait_for_end(self, lane_id: bytes) -> int:
        """Return what the other side says arrived, when it ends this lane. Another one is not wanted meanwhile."""
        while True:
            match await self._events.receive():
                case LaneEnded() as end if end.lane_id == lane_id:
                    return end.chunks
                case LaneOffer():
                    self._link.tell_lane(LanePass())
                case _Arrived(_, tls):
                    tls.close()
                case LaneEnded() as end:
                    self._answer_late(end)
                case LanePass():
                    pass

    def _tell_end(self, lane_id: bytes) -> None:
        self._told_end = lane_id
        self._link.tell_lane(LaneEnded(lane_id=lane_id, chunks=self._link.chunks.ledger.incoming.received))

    def _answer_late(self, end: LaneEnded) -> None:
        """Answer the end of a lane that the other side had, and this one gave up as it came up."""
        if end.lane_id in (self._offered_lane, self._dialled_lane) and end.lane_id != self._told_end:
            self._tell_end(end.lane_id)
