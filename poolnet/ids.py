"""Identifiers: 32 bytes each, and how people read and type them.

In text an id is lower-case base32 without padding (52 characters). A device id that people compare by eye is shown in
groups with a check character. Prefixes are accepted where a command takes an id.
"""

import base64
import binascii
from typing import NewType

from poolnet.errors import WireError

ID_SIZE = 32

#: BLAKE3 of a device's Ed25519 public key. A node is a device that is online; its id is the same.
DeviceId = NewType("DeviceId", bytes)
#: An Ed25519 public key.
PublicKey = NewType("PublicKey", bytes)
#: BLAKE3 of a user's first AddDevice statement.
UserId = NewType("UserId", bytes)
#: BLAKE3 of a pool's Genesis statement.
PoolId = NewType("PoolId", bytes)
#: BLAKE3 of a statement's signed bytes.
StatementId = NewType("StatementId", bytes)
#: BLAKE3 of a message's signed bytes.
MsgId = NewType("MsgId", bytes)
#: Root of a file's hash tree.
FileId = NewType("FileId", bytes)

#: Characters of an id as text, and the bits of the last one that are no part of the id.
_ID_CHARS = 52
_STRAY_BITS = 0b1111
_CHECK_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def encode_id(value: bytes) -> str:
    """Return `value` (any id or key) as lower-case base32 without padding."""
    return base64.b32encode(value).decode("ascii").rstrip("=").lower()


def decode_id_untrusted(text: str) -> bytes:
    """Return the 32 bytes of an id in text form.

    Raises:
        WireError: not base32, or not 32 bytes.
    """
    if len(text) != 52:
        raise WireError(f"an id has 52 characters, this has {len(text)}")
    try:
        value = base64.b32decode(text.upper() + "====")
    except (binascii.Error, ValueError) as exc:
        raise WireError("an id holds only the letters a-z and the digits 2-7") from exc
    if encode_id(value) != text.lower():
        raise WireError("an id with stray bits at its end")
    return value


def id_prefix_range_untrusted(prefix: str) -> tuple[bytes, bytes]:
    """Return the lowest and the highest of the ids whose text form begins with `prefix`.

    Raises:
        WireError: no id begins so.
    """
    if len(prefix) > _ID_CHARS:  # before its digits become one large number
        raise WireError("no id begins so")
    value = 0
    for char in prefix.lower():
        digit = _CHECK_ALPHABET.find(char)
        if digit < 0:
            raise WireError("an id holds only the letters a-z and the digits 2-7")
        value = value << 5 | digit
    more_bits = 5 * (_ID_CHARS - len(prefix))
    if more_bits < 0 or (more_bits == 0 and value & _STRAY_BITS):
        raise WireError("no id begins so")
    ends = (value << more_bits, ((value + 1) << more_bits) - 1)
    lowest, highest = (end >> _STRAY_BITS.bit_length() for end in ends)
    return lowest.to_bytes(ID_SIZE, "big"), highest.to_bytes(ID_SIZE, "big")


def short_id(value: bytes) -> str:
    """Return the first 8 characters of an id: enough for people to tell the members of a pool apart."""
    return encode_id(value)[:8]


def format_device_id(device_id: DeviceId) -> str:
    """Return a device id for comparing by eye: 13 groups of four and a check character.

    The check character is the sum of the characters' values, each times an odd weight, modulo 32: it notices every
    single wrong character, and every swap of neighbours whose values do not differ by exactly 16.
    """
    text = encode_id(device_id)
    check = sum((2 * place + 1) * _CHECK_ALPHABET.index(char) for place, char in enumerate(text)) % 32
    groups = [text[start : start + 4] for start in range(0, len(text), 4)]
    return "-".join(groups) + "-" + _CHECK_ALPHABET[check]
