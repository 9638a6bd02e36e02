"""Signals: how two nodes that want a link tell each other where they can be reached, before they can talk directly."""

import attrs

from poolnet.limits import MAX_CANDIDATES, MAX_SIGNAL_SIZE
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor
from poolnet.wire.schema import (
    BOOLEAN,
    ID32,
    data,
    decode_fields_untrusted,
    encode_fields,
    list_of,
    record,
    wire,
)
from poolnet.wire.sync_frames import Address

SESSION_SIZE = 8


@attrs.frozen(kw_only=True)
class Signal:
    """One side's part of setting up a path: the session's id and probe key, and where the sender can be reached.

    The initiator sends one with `answer` false; the other side answers with the same session and key. Both then probe
    all of the other's candidates, and the initiator dials the best.
    """

    session: bytes = wire(data(min_size=SESSION_SIZE, max_size=SESSION_SIZE))
    probe_key: bytes = wire(ID32)
    candidates: tuple[Address, ...] = wire(list_of(record(Address), max_items=MAX_CANDIDATES))
    answer: bool = wire(BOOLEAN)


def encode_signal(signal: Signal) -> bytes:
    """Return a signal in wire form."""
    return encode_cbor(encode_fields(signal))


def decode_signal_untrusted(encoded: bytes) -> Signal:
    """Return the signal in `encoded`.

    Raises:
        WireError: not a signal.
    """
    return decode_fields_untrusted(Signal, decode_cbor_untrusted(encoded, max_size=MAX_SIGNAL_SIZE))
