"""All decoders of what comes from outside, each as a function of bytes, with the errors that its contract allows.

Whatever else comes out is a fault, and so is a value that does not survive being written and read again: each function
checks that with `assert`. A new ``…_untrusted`` function has to be reached from here (`test_fuzz_decoders.py`).
"""

import ipaddress
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import attrs

from fuzz import samples
from fuzz.stored import STORED
from poolnet.errors import InvalidAddress, InvalidInvite, Refused, WireError
from poolnet.identity.authorship import signature_is_valid
from poolnet.identity.invite_link import (
    format_invite_link,
    parse_invite_link_untrusted,
    parse_server_address_untrusted,
)
from poolnet.identity.membership import Membership
from poolnet.identity.statements import decode_statement_untrusted, encode_statement
from poolnet.identity.user import decode_add_device_untrusted, encode_add_device
from poolnet.ids import ID_SIZE, decode_id_untrusted, encode_id, id_prefix_range_untrusted
from poolnet.json_text import decode_json_untrusted
from poolnet.limits import CHUNK_SIZE, MAX_FRAME_SIZE, MAX_PRE_AUTH_SIZE
from poolnet.net.addresses import is_loopback, is_numeric, to_kernel
from poolnet.printable import printable
from poolnet.protocol.hash_tree import TreeShape, file_id_of, hash_chunk, hash_node, piece_is_genuine
from poolnet.protocol.link_auth import LinkAuth, Received, SendBytes, Started
from poolnet.protocol.probing import HEADER_SIZE, DatagramReceived, Prober, SendDatagram, StartProbing
from poolnet.protocol.statement_exchange import add_statements_untrusted
from poolnet.protocol.stream_pieces import decode_stream_piece_untrusted, encode_stream_piece, stream_piece_is_genuine
from poolnet.wire.bodies import decode_body_untrusted, encode_body
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor, read_header_untrusted
from poolnet.wire.claims import decode_bound_untrusted, encode_bound
from poolnet.wire.folder_list import check_path_untrusted, decode_folder_list_untrusted, encode_folder_list
from poolnet.wire.framing import FrameBuffer, FrameSet, UnknownFrame, encode_frame, frame_number_untrusted
from poolnet.wire.message import decode_message_untrusted, encode_message, message_id_untrusted
from poolnet.wire.signal import decode_signal_untrusted, encode_signal
from poolnet_cli.units import parse_duration, parse_size, parse_time

_ALL_FRAMES: Final = FrameSet([type(frame) for frame in samples.FRAMES])
_NOWHERE: Final = ("192.0.2.7", 7)


@attrs.frozen(kw_only=True)
class Decoder:
    """One decoder.

    Attributes:
        number: never given to another one: inputs of atheris begin with it.
        decode: takes the bytes; raises one of `errors`, or `AssertionError` for what no decoder may do.
        samples: valid encodings, or what is nearly valid.
        is_slow: it uses the disk, so fewer examples are tried.
    """

    name: str
    number: int
    decode: Callable[[bytes], object]
    samples: tuple[bytes, ...] = attrs.field(repr=False)
    errors: tuple[type[Exception], ...] = (WireError,)
    is_slow: bool = False

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Be short for hypothesis, which would show all samples, refuses to show so much, and hides what failed."""
        printer.text(f"<{self.name}>")

    def accepts(self, data: bytes) -> bool:
        """Return whether `data` was decoded, and False if it was refused as the contract says; all else is raised."""
        try:
            self.decode(data)
        except self.errors:
            return False
        return True


def _cbor(data: bytes) -> object:
    value = decode_cbor_untrusted(data, max_size=MAX_FRAME_SIZE)
    assert decode_cbor_untrusted(encode_cbor(value), max_size=2 * MAX_FRAME_SIZE) == value
    return value


def _json(data: bytes) -> object:
    return decode_json_untrusted(data)


def _frame(data: bytes) -> object:
    value = _ALL_FRAMES.decode_untrusted(data)
    number = frame_number_untrusted(data) if data[1:2] < b"\x20" else None
    if isinstance(value, UnknownFrame):
        return value
    assert number in (None, value.FRAME_TYPE)
    try:
        again = encode_frame(value)[4:]
    except WireError:  # fields that the sender wrote in fewer bytes than we do
        return value
    assert _ALL_FRAMES.decode_untrusted(again) == value
    return value


def _frame_stream(data: bytes) -> object:
    whole, bytewise = FrameBuffer(max_size=1024), FrameBuffer(max_size=1024)
    whole.feed_untrusted(data)
    found: list[bytes] = []
    try:
        found.extend(whole.payloads())
    finally:
        one_by_one: list[bytes] = []
        try:
            for byte in data[:2048]:
                bytewise.feed_untrusted(bytes([byte]))
                one_by_one += bytewise.payloads()
        except WireError:
            pass
        assert one_by_one == found[: len(one_by_one)]
    return found


def _header(data: bytes) -> object:
    major, argument, offset = read_header_untrusted(data, 0)
    assert 0 <= major < 8
    assert argument < 2**64
    assert 0 < offset <= len(data)
    return major, argument, offset


def _bound(data: bytes) -> object:
    bound = decode_bound_untrusted(data)
    assert decode_bound_untrusted(encode_bound(bound)) == (bound[0], bound[1].rstrip(b"\0"))
    return bound


def _statement(data: bytes) -> object:
    statement = decode_statement_untrusted(data)
    again = decode_statement_untrusted(encode_statement(statement))
    assert (again.signed, again.signatures, again.body) == (statement.signed, statement.signatures, statement.body)
    return statement


def _statements(data: bytes) -> object:
    membership = Membership(samples.POOL)
    for statement in samples.STATEMENTS[:2]:
        membership.add(statement)
    added = add_statements_untrusted(membership, [data])
    assert membership.members().keys() <= {samples.KEY.device_id, samples.OTHER_KEY.device_id}
    return added


def _add_device(data: bytes) -> object:
    device = decode_add_device_untrusted(data)
    assert decode_add_device_untrusted(encode_add_device(device)) == device
    return device


def _message(data: bytes) -> object:
    message = decode_message_untrusted(data, samples.POOL)
    assert message_id_untrusted(data, samples.POOL) == message.msg_id
    assert decode_message_untrusted(encode_message(message), samples.POOL) == message
    assert message.content.pool_id == samples.POOL
    assert message.content.label == samples.MESSAGES[0].content.label
    signature_is_valid(message)
    return message


def _body(data: bytes) -> object:
    """What kind of body it is said to be stands before the first zero byte."""
    kind, _, encoded = data.partition(b"\0")
    body = decode_body_untrusted(kind.decode(errors="replace"), encoded)
    if body is not None:
        assert decode_body_untrusted(body.KIND, encode_body(body)) == body
    return body


def _signal(data: bytes) -> object:
    signal = decode_signal_untrusted(data)
    assert decode_signal_untrusted(encode_signal(signal)) == signal
    for address in signal.candidates:
        assert to_kernel(10, (address.host, address.port)) is not None
        assert address.host == printable(address.host)
        is_loopback(address.host)
    return signal


def _folder_list(data: bytes) -> object:
    cut = len(data) // 3
    entries = list(decode_folder_list_untrusted([data[:cut], data[cut : cut + 1], b"", data[cut + 1 :]]))
    assert list(decode_folder_list_untrusted([data])) == entries
    assert list(decode_folder_list_untrusted(encode_folder_list(entries))) == entries
    return entries


def _path(data: bytes) -> object:
    path = data.decode(errors="replace")
    check_path_untrusted(path)
    assert not Path(path).is_absolute()
    assert ".." not in Path(path).parts
    return path


def _stream_piece(data: bytes) -> object:
    piece = decode_stream_piece_untrusted(data)
    assert decode_stream_piece_untrusted(encode_stream_piece(piece)) == piece
    if stream_piece_is_genuine(piece, pool_id=samples.POOL, stream_id=samples.STREAM_ID):
        assert encode_stream_piece(piece) in samples.STREAM_PIECES
    return piece


def _tree_pieces(data: bytes) -> object:
    """Pieces of a file with a tree of two levels; only those that it is of may be believed."""
    believed = [
        piece
        for piece in range(-1, _SHAPE.piece_count + 1)
        for parent in (None, _NODE, data)
        if piece_is_genuine(_SHAPE, _FILE_ID, piece, data, parent_data=parent) and parent != data
    ]
    assert not believed or data in (_NODE, *_CHUNKS)
    return believed


def _probe(data: bytes) -> object:
    prober = Prober(Random(1))
    start = StartProbing(bytes(8), samples.ID, (_NOWHERE,), 5.0)
    prober.handle(start, 0.0)
    effects = prober.handle(DatagramReceived(data or b"\0", _NOWHERE), 0.1)
    is_genuine = any(data.startswith(probe[:HEADER_SIZE]) for probe in _PROBES)
    assert is_genuine or not effects, "an answer to what nobody with the key has sent"
    return effects


def _link_proof(data: bytes) -> object:
    def refuse(_hello: object) -> tuple[bytes, ...]:
        raise Refused("nobody comes in")

    auth = LinkAuth(samples.KEY, nonce=samples.ID, now=0.0, authorise=refuse)
    auth.handle(Started(), 0.0)
    effects: list[Any] = list(auth.handle(Received(data), 0.0))
    assert not any(isinstance(effect, SendBytes) for effect in effects)
    assert auth.is_done or len(data) <= MAX_PRE_AUTH_SIZE
    return effects


def _id(data: bytes) -> object:
    text = data.decode(errors="replace")
    value = decode_id_untrusted(text)
    assert len(value) == ID_SIZE
    assert encode_id(value) == text.lower()
    return value


def _id_prefix(data: bytes) -> object:
    text = data.decode(errors="replace")
    lowest, highest = id_prefix_range_untrusted(text)
    assert lowest <= highest
    assert encode_id(lowest).startswith(text.lower())
    assert encode_id(highest).startswith(text.lower())
    return lowest, highest


def _server_address(data: bytes) -> object:
    address = parse_server_address_untrusted(data.decode(errors="surrogateescape"))
    assert parse_server_address_untrusted(str(address)) == address
    assert printable(str(address)) == str(address)
    return address


def _invite_link(data: bytes) -> object:
    link = parse_invite_link_untrusted(data.decode(errors="surrogateescape"))
    assert parse_invite_link_untrusted(format_invite_link(link)) == link
    assert printable(format_invite_link(link)) == format_invite_link(link)
    return link


def _ip_address(data: bytes) -> object:
    host = data.decode(errors="replace")
    if is_numeric(host):
        is_loopback(host)
        ipaddress.ip_address(host.partition("%")[0])
    return host


def _units(data: bytes) -> object:
    text = data.decode(errors="replace")
    values = []
    for parse in (parse_duration, parse_size, parse_time):
        try:
            values.append(parse(text))
        except ValueError:
            continue
    if not values:
        raise ValueError("nothing of all")
    return values


_NODE: Final = hash_chunk(b"\x01" * CHUNK_SIZE) + hash_chunk(b"end")
_CHUNKS: Final = (b"\x01" * CHUNK_SIZE, b"end")
_SHAPE: Final = TreeShape(CHUNK_SIZE + 3)
_FILE_ID: Final = file_id_of(CHUNK_SIZE + 3, hash_node(_NODE))


def _made_probes() -> tuple[bytes, ...]:
    start = StartProbing(bytes(8), samples.ID, (_NOWHERE,), 5.0)
    sent = [effect.data for effect in Prober(Random(2)).handle(start, 0.0) if isinstance(effect, SendDatagram)]
    other = Prober(Random(3))
    other.handle(start, 0.0)
    answers = [
        effect.data
        for data in sent
        for effect in other.handle(DatagramReceived(data, _NOWHERE), 0.1)
        if isinstance(effect, SendDatagram)
    ]
    return (*sent, *answers)


_PROBES: Final = _made_probes()
_LINKS: Final = samples.texts(*samples.SERVERS)
_INVITES: Final = samples.texts(format_invite_link(samples.INVITE))
_IDS: Final = samples.texts(encode_id(samples.ID), encode_id(samples.ID).upper(), encode_id(samples.ID)[:9])
_HELLO: Final = encode_frame(samples.FRAMES[0])
_STREAM: Final = b"".join(encode_frame(frame) for frame in samples.FRAMES[:12])
_BODIES: Final = tuple(body.KIND.encode() + b"\0" + encode_body(body) for body in samples.BODIES)
_STATEMENTS: Final = tuple(map(encode_statement, samples.STATEMENTS))
_TIMES: Final = samples.texts("1h30m", "90", "1.5GiB/s", "2026-11-20 08:40", "2026-11-20T08:40Z", "3d ago", "08:40")
_HOSTS: Final = samples.texts("192.0.2.1", "fe80::1%2", "::ffff:192.0.2.1", "::", "2001:db8::1%eth0")

DECODERS: Final[tuple[Decoder, ...]] = (
    Decoder(name="cbor", number=1, decode=_cbor, samples=samples.FRAME_PAYLOADS),
    Decoder(name="cbor header", number=2, decode=_header, samples=(b"\x1b" + bytes(8), b"\x83")),
    Decoder(name="json", number=3, decode=_json, samples=(b'{"a": [1, null, "b"], "c": {"d": 0.5}}',)),
    Decoder(name="frame", number=4, decode=_frame, samples=samples.FRAME_PAYLOADS),
    Decoder(name="frame stream", number=5, decode=_frame_stream, samples=(_STREAM,)),
    Decoder(name="bound", number=6, decode=_bound, samples=(encode_bound((samples.HLC, samples.ID)), b"\x80")),
    Decoder(name="statement", number=7, decode=_statement, samples=_STATEMENTS),
    Decoder(name="statements", number=8, decode=_statements, samples=_STATEMENTS),
    Decoder(name="user", number=9, decode=_add_device, samples=(encode_add_device(samples.USER),)),
    Decoder(name="message", number=10, decode=_message, samples=tuple(map(encode_message, samples.MESSAGES))),
    Decoder(name="body", number=11, decode=_body, samples=_BODIES),
    Decoder(name="signal", number=12, decode=_signal, samples=(encode_signal(samples.SIGNAL),)),
    Decoder(name="folder list", number=13, decode=_folder_list, samples=(samples.FOLDER_LIST,)),
    Decoder(name="folder path", number=14, decode=_path, samples=samples.texts("a/b/c.txt", "ü/深い")),
    Decoder(name="stream piece", number=15, decode=_stream_piece, samples=samples.STREAM_PIECES),
    Decoder(name="tree pieces", number=16, decode=_tree_pieces, samples=(_NODE, *_CHUNKS), errors=()),
    Decoder(name="probe", number=17, decode=_probe, samples=_PROBES, errors=()),
    Decoder(name="link proof", number=18, decode=_link_proof, samples=(_HELLO, _STREAM), errors=()),
    Decoder(name="id", number=19, decode=_id, samples=_IDS[:2]),
    Decoder(name="id prefix", number=20, decode=_id_prefix, samples=_IDS),
    Decoder(name="server link", number=21, decode=_server_address, samples=_LINKS, errors=(InvalidAddress,)),
    Decoder(name="invite link", number=22, decode=_invite_link, samples=_INVITES, errors=(InvalidInvite,)),
    Decoder(name="ip address", number=23, decode=_ip_address, samples=_HOSTS, errors=()),
    Decoder(name="units", number=24, decode=_units, samples=_TIMES, errors=(ValueError,)),
    *(
        Decoder(
            name=stored.name,
            number=stored.number,
            decode=stored.read,
            samples=stored.samples,
            errors=stored.errors,
            is_slow=True,
        )
        for stored in STORED
    ),
)
BY_NUMBER: Final = {decoder.number: decoder for decoder in DECODERS}
assert len(BY_NUMBER) == len(DECODERS), "two decoders have one number"
