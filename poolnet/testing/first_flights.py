"""First datagrams of QUIC connections by the thousand, for whoever wants to see what a flood of them does.

A client that is made for each costs milliseconds. Here one real Initial packet is opened, and what is in it packed anew
for each connection id: its keys follow from that alone (RFC 9001, section 5.2). To whom it goes it looks like the
beginning of a handshake, and it is one as far as it goes; nobody could go on with it.

    >>> from poolnet.identity.keys import DeviceKey
    >>> flights = FirstFlights(DeviceKey(b"k" * 32).public_key)
    >>> len(flights.make(b"12345678"))
    1200
"""

from aioquic.buffer import Buffer, encode_uint_var  # type: ignore[attr-defined]  # public, not re-exported by name
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicHeader, QuicPacketType, pull_quic_header

from poolnet.ids import PublicKey
from poolnet.limits import MIN_DATAGRAM_SIZE
from poolnet.net.quic_settings import CONNECTION_ID_SIZE, VERSIONS, dialling_settings

_FIRST_BYTE = 0xC1  # an Initial packet, with a packet number of two bytes
_NUMBER_SIZE, _TAG_SIZE = 2, 16


class FirstFlights:
    """Makes them, all by one client with one ClientHello.

    Args:
        peer_key: whom they pretend to dial.
    """

    def __init__(self, peer_key: PublicKey) -> None:
        client = QuicConnection(configuration=dialling_settings(peer_key, datagram_size=MIN_DATAGRAM_SIZE))
        client.connect(("192.0.2.1", 1), 0.0)
        [(data, _)] = client.datagrams_to_send(0.0)
        buf = Buffer(data=data)
        header = pull_quic_header(buf)
        keys = CryptoPair()
        keys.setup_initial(header.destination_cid, is_client=False, version=VERSIONS[0])
        self._source_id = header.source_cid
        self._payload = keys.decrypt_packet(data[: header.packet_length], buf.tell(), 0)[1]

    def make(self, destination_id: bytes, *, token: bytes = b"") -> bytes:
        """Return a first datagram to `destination_id`; with the token of a Retry, if there was one."""
        size = _NUMBER_SIZE + len(self._payload) + _TAG_SIZE
        header = b"".join(
            (
                bytes([_FIRST_BYTE]),
                VERSIONS[0].to_bytes(4, "big"),
                bytes([len(destination_id)]) + destination_id,
                bytes([len(self._source_id)]) + self._source_id,
                encode_uint_var(len(token)) + token,
                encode_uint_var(size),
                bytes(_NUMBER_SIZE),
            )
        )
        keys = CryptoPair()
        keys.setup_initial(destination_id, is_client=True, version=VERSIONS[0])
        return bytes(keys.encrypt_packet(header, self._payload, 0)).ljust(MIN_DATAGRAM_SIZE, b"\0")

    def again(self, answer: bytes) -> bytes | None:
        """Return what a dialler sends after `answer`, if that is a Retry; else it has nothing more to say."""
        header = _header_of(answer)
        if header is None or header.packet_type is not QuicPacketType.RETRY:
            return None
        return self.make(header.source_cid, token=header.token)


def _header_of(data: bytes) -> QuicHeader | None:
    try:
        return pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_SIZE)
    except ValueError:
        return None
