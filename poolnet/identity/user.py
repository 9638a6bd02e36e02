"""Users: one person, several devices, as a set of signed statements of which the first fixes the user's id.

The first `AddDevice` names no user and is signed by the device that it adds; the hash of its signed bytes is the
user's id. Statements of further devices name that id in `user_id` and are signed by a device that the user has.
"""

import attrs
from blake3 import blake3

from poolnet.errors import WireError
from poolnet.identity.keys import DeviceKey, verify_signature
from poolnet.ids import PublicKey, UserId
from poolnet.limits import MAX_NAME_CHARS, MAX_USER_STATEMENT_SIZE
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor
from poolnet.wire.schema import (
    ID32,
    SIGNATURE,
    data,
    decode_fields_untrusted,
    encode_fields,
    integer,
    optional,
    text,
    wire,
)

USER_LABEL = "poolnet user 1"
_ADD_DEVICE = "add_device"


@attrs.frozen(kw_only=True)
class AddDevice:
    """This device is the user's, until `expires_unix_ms` if that is set.

    `user_id` is None in the first of a user, which then founds the user.
    """

    label: str = wire(text(max_chars=64), default=USER_LABEL)
    kind: str = wire(text(max_chars=32), default=_ADD_DEVICE)
    user_id: UserId | None = wire(optional(ID32), default=None)
    signer_key: PublicKey = wire(ID32)
    device_key: PublicKey = wire(ID32)
    device_name: str = wire(text(max_chars=MAX_NAME_CHARS))
    unix_ms: int = wire(integer())
    expires_unix_ms: int | None = wire(optional(integer()), default=None)


@attrs.frozen(kw_only=True)
class SignedAddDevice:
    """An `AddDevice` with the bytes that were signed; `user_id` is the user that it founds or extends."""

    user_id: UserId
    content: AddDevice
    signed: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class _Envelope:
    signed: bytes = wire(data(max_size=MAX_USER_STATEMENT_SIZE))
    signature: bytes = wire(SIGNATURE)


def found_user(
    key: DeviceKey, *, unix_ms: int, device_name: str, expires_unix_ms: int | None = None
) -> SignedAddDevice:
    """Return the first statement of a new user, whose first device holds `key`; a long device name is cut."""
    content = AddDevice(
        signer_key=key.public_key,
        device_key=key.public_key,
        device_name=device_name[:MAX_NAME_CHARS],
        unix_ms=unix_ms,
        expires_unix_ms=expires_unix_ms,
    )
    signed = encode_cbor(encode_fields(content))
    return SignedAddDevice(
        user_id=_user_id(content, signed), content=content, signed=signed, signature=key.sign(signed)
    )


def encode_add_device(statement: SignedAddDevice) -> bytes:
    """Return the statement as it travels and is stored."""
    return encode_cbor([statement.signed, statement.signature])


def decode_add_device_untrusted(encoded: bytes) -> SignedAddDevice:
    """Return the statement in `encoded`; its signature is not checked here.

    Raises:
        WireError: not an `AddDevice` of this version.
    """
    envelope = decode_fields_untrusted(_Envelope, decode_cbor_untrusted(encoded, max_size=MAX_USER_STATEMENT_SIZE))
    content = decode_fields_untrusted(
        AddDevice, decode_cbor_untrusted(envelope.signed, max_size=MAX_USER_STATEMENT_SIZE)
    )
    if content.label != USER_LABEL or content.kind != _ADD_DEVICE:
        raise WireError("not a user statement of this version")
    return SignedAddDevice(
        user_id=_user_id(content, envelope.signed),
        content=content,
        signed=envelope.signed,
        signature=envelope.signature,
    )


def add_device_is_signed(statement: SignedAddDevice) -> bool:
    """Return whether the signer that it names signed it; a user's first device signs for itself."""
    content = statement.content
    if content.user_id is None and content.signer_key != content.device_key:
        return False
    return verify_signature(content.signer_key, statement.signature, statement.signed)


def _user_id(content: AddDevice, signed: bytes) -> UserId:
    return content.user_id if content.user_id is not None else UserId(blake3(signed).digest())
