"""Who gets a new connection: version negotiation, Retry tokens under load, and a cap on the unproven.

A connection costs memory and a signature before its peer has proven anything, and the source address of its first
packet may be forged. So once `RETRY_ABOVE_HALF_OPEN` are unproven, a new one must first return a token that was sent to
its address (RFC 9000, section 8.1.2), which costs us nothing. Then it needs one of `MAX_HALF_OPEN` places. Of these no
network has more than its share, and when all are taken, somebody who has not proven itself in time makes room
(protocol/fair_slots.py); if there is nobody, the newcomer is not answered.

A flood of strangers who all answer would make this a lottery for everybody. So as many places again are kept for those
who are none: whose address answers our path probes at the moment, which only somebody can who knows a key that members
were told, and whose network had a link that lasted (protocol/known_networks.py). What strangers do is nothing to them.
"""

import secrets
from collections.abc import Callable
from typing import Generic, TypeVar

import attrs
from aioquic.quic.packet import QuicHeader, QuicPacketType, encode_quic_retry, encode_quic_version_negotiation
from aioquic.quic.retry import QuicRetryTokenHandler

from poolnet.limits import (
    HALF_OPEN_GRACE_S,
    MAX_HALF_OPEN,
    MAX_HALF_OPEN_PER_NETWORK,
    MIN_DATAGRAM_SIZE,
    RETRY_ABOVE_HALF_OPEN,
)
from poolnet.net.addresses import SocketAddress
from poolnet.net.quic_settings import CONNECTION_ID_SIZE
from poolnet.protocol.fair_slots import FairSlots, network_of
from poolnet.protocol.known_networks import KnownNetworks

T = TypeVar("T")


@attrs.frozen
class Admit:
    """Make a connection; with these ids of an earlier Retry, if there was one."""

    original_destination_id: bytes
    retry_source_id: bytes | None


@attrs.frozen
class Reply:
    """Send this back, and keep nothing."""

    data: bytes


@attrs.frozen
class Drop:
    """Do not answer."""


class HalfOpen(Generic[T]):
    """The connections whose peers are not proven, and their places: those of strangers, and those of who is known.

    Args:
        is_expected: whether an address answers our probes at the moment.
    """

    def __init__(self, is_expected: Callable[[SocketAddress], bool]) -> None:
        self._is_expected = is_expected
        self._networks: KnownNetworks[T] = KnownNetworks()
        self._known: FairSlots[T] = _slots()
        self._strangers: FairSlots[T] = _slots()

    def __len__(self) -> int:
        return len(self._known) + len(self._strangers)

    def holders(self) -> list[T]:
        """Return all."""
        return self._known.holders() + self._strangers.holders()

    def has_room(self, address: SocketAddress, now: float) -> bool:
        """Return whether `take` would find a place for a newcomer from `address`."""
        return self._room_for(address, now) is not None

    def take(self, newcomer: T, address: SocketAddress, now: float) -> T | None:
        """Give a newcomer a place, if `has_room` says so; return whose place it was, if it was somebody's."""
        places = self._room_for(address, now)
        assert places is not None
        return places.take(newcomer, network_of(address[0]), now)

    def proven(self, holder: T, address: SocketAddress, now: float) -> None:
        """Take the place back of somebody who has proven itself, and remember it if that lasts."""
        self._release(holder)
        self._networks.link_up(holder, network_of(address[0]), now)

    def ended(self, holder: T, now: float) -> None:
        """Take note that a connection is gone, whatever it was. Idempotent."""
        self._release(holder)
        self._networks.link_down(holder, now)

    def _release(self, holder: T) -> None:
        self._known.release(holder)
        self._strangers.release(holder)

    def _room_for(self, address: SocketAddress, now: float) -> FairSlots[T] | None:
        """Return the places of which a newcomer gets one; those of strangers if there is none for who is known."""
        network = network_of(address[0])
        is_known = self._networks.is_known(network, now) or self._is_expected(address)
        if is_known and self._known.has_room(network, now):
            return self._known
        return self._strangers if self._strangers.has_room(network, now) else None


def _slots() -> FairSlots[T]:
    return FairSlots(slots=MAX_HALF_OPEN, per_network=MAX_HALF_OPEN_PER_NETWORK, grace_s=HALF_OPEN_GRACE_S)


class Admission:
    """The rule, and its token key, which lives as long as the endpoint."""

    def __init__(self, supported_versions: list[int]) -> None:
        self._versions = supported_versions
        self._tokens = QuicRetryTokenHandler()
        self.retries = 0

    def judge(
        self, header: QuicHeader, *, size: int, address: SocketAddress, half_open: HalfOpen[T], now: float
    ) -> Admit | Reply | Drop:
        """Decide about a packet that belongs to no connection; `half_open` are those whose peers are not proven."""
        if size < MIN_DATAGRAM_SIZE or header.version is None:
            return Drop()
        if header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            return Drop()
        if header.version not in self._versions:
            return Reply(
                encode_quic_version_negotiation(
                    source_cid=header.destination_cid,
                    destination_cid=header.source_cid,
                    supported_versions=self._versions,
                )
            )
        if header.packet_type is not QuicPacketType.INITIAL:
            return Drop()
        if not header.token and len(half_open) >= RETRY_ABOVE_HALF_OPEN:
            return self._retry(header, address, now)
        admitted = self._check_token(header, address, now) if header.token else Admit(header.destination_cid, None)
        return admitted if half_open.has_room(address, now) else Drop()

    def _check_token(self, header: QuicHeader, address: SocketAddress, now: float) -> Admit | Drop:
        try:
            original = self._tokens.validate_token(
                address=_without_scope(address), destination_cid=header.destination_cid, token=header.token, now=now
            )
        except ValueError:
            return Drop()
        return Admit(original, header.destination_cid)

    def _retry(self, header: QuicHeader, address: SocketAddress, now: float) -> Reply:
        self.retries += 1
        assert header.version is not None
        source_id = secrets.token_bytes(CONNECTION_ID_SIZE)
        token = self._tokens.create_token(
            address=_without_scope(address),
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_id,
            now=now,
        )
        return Reply(
            encode_quic_retry(
                version=header.version,
                source_cid=source_id,
                destination_cid=header.source_cid,
                original_destination_cid=header.destination_cid,
                retry_token=token,
            )
        )


def _without_scope(address: SocketAddress) -> SocketAddress:
    return (address[0].partition("%")[0], address[1])
