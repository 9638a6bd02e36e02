"""Drives protocol/probing.py: searches that wait, probe packets in and out."""

from collections.abc import Callable

import attrs
import trio

from poolnet.errors import Unreachable
from poolnet.limits import PROBE_SIZES
from poolnet.net.addresses import SocketAddress
from poolnet.net.udp import Datagram
from poolnet.protocol.probing import (
    DatagramReceived,
    Effect,
    NoPath,
    PathFound,
    Prober,
    SendDatagram,
    StartProbing,
    StopProbing,
)
from poolnet.protocol.randomness import RandomSource


@attrs.frozen
class Path:
    """A way to another endpoint: where, the largest datagram that arrives there, and the round trip."""

    address: SocketAddress
    datagram_size: int
    rtt_s: float


class PathProbes:
    """All searches of one endpoint.

    Args:
        send: sends, or drops, datagrams.
        rearm: called when `next_deadline` may have changed.
    """

    def __init__(
        self,
        rng: RandomSource,
        *,
        max_datagram_size: int,
        send: Callable[[list[Datagram]], None],
        rearm: Callable[["PathProbes"], None],
    ) -> None:
        self._prober = Prober(rng, sizes=tuple(size for size in PROBE_SIZES if size <= max_datagram_size))
        self._send = send
        self._rearm = rearm
        self._waiting: dict[bytes, trio.Event] = {}
        self._found: dict[bytes, PathFound] = {}

    @property
    def dropped(self) -> int:
        """Packets that belong to no session, or are not authentic."""
        return self._prober.dropped

    async def search(self, session: bytes, key: bytes, candidates: tuple[SocketAddress, ...], timeout_s: float) -> Path:
        """Return the best path. Raises Unreachable, also if that session is being searched already."""
        if session in self._waiting:  # whoever asks us to probe chooses the session
            raise Unreachable("this session is being probed already")
        now = trio.current_time()
        done = self._waiting[session] = trio.Event()
        try:
            self._perform(self._prober.handle(StartProbing(session, key, candidates, now + timeout_s), now))
            await done.wait()
            found = self._found.pop(session, None)
        finally:
            del self._waiting[session]
            self._found.pop(session, None)
            self._perform(self._prober.handle(StopProbing(session), trio.current_time()))
        if found is None:
            raise Unreachable(f"none of {len(candidates)} addresses answered")
        return Path(found.address, found.datagram_size, found.rtt_s)

    def receive(self, data: bytes, address: SocketAddress, now: float) -> None:
        """Take a probe packet."""
        self._perform(self._prober.handle(DatagramReceived(data, address), now))

    def datagram_size_for(self, address: SocketAddress) -> int:
        """Return the largest size that `address` has answered lately."""
        return self._prober.datagram_size_for(address)

    def is_answered_by(self, address: SocketAddress) -> bool:
        """Return whether `address` has answered our probes lately: it is that of somebody whom we expect."""
        return self._prober.is_answered_by(address)

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        return self._prober.next_deadline()

    def tick(self, now: float) -> None:
        """Repeat probes and end searches."""
        self._perform(self._prober.tick(now))

    def _perform(self, effects: list[Effect]) -> None:
        datagrams: list[Datagram] = []
        for effect in effects:
            match effect:
                case SendDatagram(data, address):
                    datagrams.append((data, address))
                case PathFound(session=session):
                    self._settle(session, effect)
                case NoPath(session):
                    self._settle(session, None)
        if datagrams:
            self._send(datagrams)
        self._rearm(self)

    def _settle(self, session: bytes, found: PathFound | None) -> None:
        if session in self._waiting:
            if found is not None:
                self._found[session] = found
            self._waiting[session].set()
