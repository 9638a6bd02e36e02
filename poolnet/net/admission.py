"""Who gets a new connection: version negotiation, Retry tokens under load, and a cap on the unproven.

A connection costs memory and a signature before its peer has proven anything, and the source address of its first
packet may be forged. So once `RETRY_ABOVE_HALF_OPEN` are unproven, a new one must first return a token that was sent to
its address (RFC 9000, section 8.1.2), which costs us nothing. Then it needs one of `MAX_HALF_OPEN` places. Of these no
network has more than its share, and when all are taken, somebody who has not proven itself in time makes room
(protocol/fair_slots.py); if there is nobody, the newcomer is not answered.
"""

import secrets
from typing import TypeVar

import attrs
from aioquic.quic.packet import QuicHeader, QuicPacketType, encode_quic_retry, encode_quic_version_negotiation
from aioquic.quic.retry import QuicRetryTokenHandler

from poolnet.limits import MIN_DATAGRAM_SIZE, RETRY_ABOVE_HALF_OPEN
from poolnet.net.addresses import SocketAddress
from poolnet.net.quic_settings import CONNECTION_ID_SIZE
from poolnet.protocol.fair_slots import FairSlots, network_of

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


class Admission:
    """The rule, and its token key, which lives as long as the endpoint."""

    def __init__(self, supported_versions: list[int]) -> None:
        self._versions = supported_versions
        self._tokens = QuicRetryTokenHandler()
        self.retries = 0

    def judge(
        self, header: QuicHeader, *, size: int, address: SocketAddress, half_open: FairSlots[T], now: float
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
        return admitted if half_open.has_room(network_of(address[0]), now) else Drop()

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
