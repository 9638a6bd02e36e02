"""The QUIC configuration of links, for both sides. No session tickets, no 0-RTT, one protocol, one version."""

import ssl

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

from poolnet.identity.certificate import link_certificate, pinning_anchor_pem, private_key_of
from poolnet.identity.keys import DeviceKey
from poolnet.ids import PublicKey
from poolnet.limits import IDLE_TIMEOUT_S, PRE_AUTH_WINDOW, QUIC_STREAM_WINDOW

ALPN = "poolnet/1"
CONNECTION_ID_SIZE = 8
VERSIONS: list[int] = [QuicProtocolVersion.VERSION_1]


def dialling_settings(peer_key: PublicKey, *, datagram_size: int) -> QuicConfiguration:
    """Return the settings of a dialler that accepts the holder of `peer_key` and nobody else."""
    settings = _settings(is_client=True, datagram_size=datagram_size)
    settings.verify_mode = ssl.CERT_REQUIRED
    settings.load_verify_locations(cadata=pinning_anchor_pem(peer_key))
    return settings


class AcceptingSettings:
    """The settings of an acceptor; its certificate is made once."""

    def __init__(self, key: DeviceKey) -> None:
        self._certificate = link_certificate(key)
        self._private_key = private_key_of(key)

    def make(self, *, datagram_size: int) -> QuicConfiguration:
        """Return the settings of one connection."""
        settings = _settings(is_client=False, datagram_size=datagram_size)
        settings.certificate = self._certificate
        settings.private_key = self._private_key
        return settings


def _settings(*, is_client: bool, datagram_size: int) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        congestion_control_algorithm="cubic",
        connection_id_length=CONNECTION_ID_SIZE,
        idle_timeout=IDLE_TIMEOUT_S,
        max_data=PRE_AUTH_WINDOW,  # bounded_quic.py opens it when the peer is proven
        max_stream_data=QUIC_STREAM_WINDOW,
        max_datagram_size=datagram_size,
        supported_versions=list(VERSIONS),
    )
