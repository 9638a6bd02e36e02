"""Pool statements: who made the pool, invited, joined, was removed, got which role. Each is signed by its author.

A statement is an array ``[label, kind, pool_id, hlc, author key, body]`` in CBOR, signed as it stands; its id is the
hash of exactly these bytes, and the id of the `Genesis` is the id of the pool. What is passed on is always the original
bytes with their signatures. What statements mean together is the business of membership.py.
"""

import enum
from typing import Any, Protocol

import attrs
from blake3 import blake3

from poolnet.clock import MAX_HLC, Hlc
from poolnet.errors import TextTooLong, WireError
from poolnet.identity.keys import DeviceKey, device_id_of, verify_signature
from poolnet.identity.user import (
    SignedAddDevice,
    add_device_is_signed,
    decode_add_device_untrusted,
    encode_add_device,
)
from poolnet.ids import DeviceId, PoolId, PublicKey, StatementId
from poolnet.limits import MAX_KEPT_STATEMENTS, MAX_NAME_CHARS, MAX_STATEMENT_SIZE, MAX_USER_STATEMENT_SIZE
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor
from poolnet.wire.schema import (
    ID32,
    SIGNATURE,
    data,
    decode_fields_untrusted,
    encode_fields,
    integer,
    list_of,
    optional,
    text,
    wire,
)

STATEMENT_LABEL = "poolnet statement 1"
NONCE_SIZE = 16
#: Author and invite key; more than two sign nothing.
_MAX_SIGNATURES = 2
_KEPT = list_of(ID32, max_items=MAX_KEPT_STATEMENTS)


class Role(enum.IntEnum):
    """What a member may do: everyone may invite; an admin may also remove members and set roles."""

    MEMBER = 0
    ADMIN = 1


_ROLE = integer(Role.MEMBER, Role.ADMIN)


@attrs.frozen(kw_only=True)
class Genesis:
    """The pool begins; its author is the founder."""

    KIND = "genesis"
    name: str = wire(text(min_chars=1, max_chars=MAX_NAME_CHARS))
    nonce: bytes = wire(data(min_size=NONCE_SIZE, max_size=NONCE_SIZE))


@attrs.frozen(kw_only=True)
class Invite:
    """Whoever holds the secret of `invite_key` may join with that role: `uses` times (None: any), until it expires."""

    KIND = "invite"
    invite_key: PublicKey = wire(ID32)
    role: int = wire(_ROLE)
    expires_unix_ms: int = wire(integer())
    uses: int | None = wire(optional(integer(1, 2**32 - 1)))


@attrs.frozen(kw_only=True)
class Join:
    """The author joins through an invite. Signed by its device and by the invite key.

    `user` is the encoded `AddDevice` that says whose device it is, and its name.
    """

    KIND = "join"
    invite_key: PublicKey = wire(ID32)
    user: bytes = wire(data(max_size=MAX_USER_STATEMENT_SIZE))


@attrs.frozen(kw_only=True)
class RemoveMember:
    """`device` is out for ever. Of what it stated, only what is in `keep` stands: what the author had seen by then."""

    KIND = "remove_member"
    device: DeviceId = wire(ID32)
    keep: tuple[StatementId, ...] = wire(_KEPT)


@attrs.frozen(kw_only=True)
class SetRole:
    """`device` has that role from now on. Of what a demoted admin stated as one, only what is in `keep` stands."""

    KIND = "set_role"
    device: DeviceId = wire(ID32)
    role: int = wire(_ROLE)
    keep: tuple[StatementId, ...] = wire(_KEPT)


StatementBody = Genesis | Invite | Join | RemoveMember | SetRole
_CLASSES: dict[str, type[Any]] = {cls.KIND: cls for cls in (Genesis, Invite, Join, RemoveMember, SetRole)}


@attrs.frozen(kw_only=True, eq=False)
class Statement:
    """A statement as it is stored and passed on; two are equal if their ids are.

    `body` is None for a kind of a newer version, which is kept and passed on, and has no effect here.
    """

    statement_id: StatementId
    pool_id: PoolId
    hlc: Hlc
    author_key: PublicKey
    author: DeviceId
    body: StatementBody | None
    signed: bytes = attrs.field(repr=False)
    signatures: tuple[bytes, ...] = attrs.field(repr=False)
    #: Of a Join: its `user`, decoded.
    user: SignedAddDevice | None = attrs.field(default=None, repr=False)

    @property
    def key(self) -> tuple[Hlc, StatementId]:
        """The place in the order of the pool's statements, the same on every node."""
        return (self.hlc, self.statement_id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statement):
            return NotImplemented
        return self.statement_id == other.statement_id

    def __hash__(self) -> int:
        return hash(self.statement_id)


@attrs.frozen(kw_only=True)
class _Content:
    """The signed part. `pool_id` is None in a Genesis, whose hash it is."""

    label: str = wire(text(max_chars=64), default=STATEMENT_LABEL)
    kind: str = wire(text(min_chars=1, max_chars=32))
    pool_id: PoolId | None = wire(optional(ID32))
    hlc: Hlc = wire(integer(0, MAX_HLC))
    author_key: PublicKey = wire(ID32)
    body: bytes = wire(data(max_size=MAX_STATEMENT_SIZE))


@attrs.frozen(kw_only=True)
class _Envelope:
    signed: bytes = wire(data(max_size=MAX_STATEMENT_SIZE))
    signatures: tuple[bytes, ...] = wire(list_of(SIGNATURE, max_items=_MAX_SIGNATURES))


class _Signer(Protocol):
    def sign(self, data: bytes) -> bytes: ...


def encode_statement(statement: Statement) -> bytes:
    """Return a statement as it travels and is stored."""
    return encode_cbor([statement.signed, list(statement.signatures)])


def decode_statement_untrusted(encoded: bytes) -> Statement:
    """Return the statement in `encoded`; its signatures are not checked here.

    Raises:
        WireError: not a statement of this version, or over a limit.
    """
    envelope = decode_fields_untrusted(_Envelope, decode_cbor_untrusted(encoded, max_size=MAX_STATEMENT_SIZE))
    content = decode_fields_untrusted(_Content, decode_cbor_untrusted(envelope.signed, max_size=MAX_STATEMENT_SIZE))
    if content.label != STATEMENT_LABEL:
        raise WireError("not a pool statement of this version")
    if (content.pool_id is None) != (content.kind == Genesis.KIND):
        raise WireError("every statement but a genesis names its pool")
    cls = _CLASSES.get(content.kind)
    body = None
    if cls is not None:
        body = decode_fields_untrusted(cls, decode_cbor_untrusted(content.body, max_size=MAX_STATEMENT_SIZE))
    return _statement(content, body, signed=envelope.signed, signatures=envelope.signatures)


def statement_is_signed(statement: Statement) -> bool:
    """Return whether everyone who has to sign it did.

    That is its author; for a Join also the invite key, and the user for its device.
    """
    match statement.body:
        case None:
            signers: tuple[PublicKey, ...] = (statement.author_key,)
            signatures = statement.signatures[:1]
        case Join(invite_key=invite_key):
            signers, signatures = (statement.author_key, invite_key), statement.signatures
            if statement.user is None or not _is_user_of(statement.user, statement.author_key):
                return False
        case _:
            signers, signatures = (statement.author_key,), statement.signatures
    return len(signatures) == len(signers) and all(
        verify_signature(key, signature, statement.signed) for key, signature in zip(signers, signatures, strict=True)
    )


def make_genesis(key: DeviceKey, *, name: str, nonce: bytes, hlc: Hlc) -> Statement:
    """Return the first statement of a new pool; `nonce` is 16 random bytes.

    Raises:
        TextTooLong: the name is empty or too long.
    """
    if not name.strip() or len(name) > MAX_NAME_CHARS:
        raise TextTooLong(f"a pool name has 1 to {MAX_NAME_CHARS} characters")
    return _make(key, pool_id=None, hlc=hlc, body=Genesis(name=name, nonce=nonce))


def make_invite(
    key: DeviceKey,
    *,
    pool_id: PoolId,
    invite_key: PublicKey,
    role: Role = Role.MEMBER,
    expires_unix_ms: int,
    uses: int | None = None,
    hlc: Hlc,
) -> Statement:
    """Return an invite by the holder of `key`. The secret of `invite_key` goes into the link, never anywhere else."""
    body = Invite(invite_key=invite_key, role=role, expires_unix_ms=expires_unix_ms, uses=uses)
    return _make(key, pool_id=pool_id, hlc=hlc, body=body)


def make_join(
    device_key: DeviceKey, invite_secret_key: DeviceKey, *, pool_id: PoolId, user: SignedAddDevice, hlc: Hlc
) -> Statement:
    """Return the entry of a device into a pool, through the invite whose secret it was given."""
    body = Join(invite_key=invite_secret_key.public_key, user=encode_add_device(user))
    return _make(device_key, pool_id=pool_id, hlc=hlc, body=body, cosigner=invite_secret_key)


def make_removal(
    key: DeviceKey, *, pool_id: PoolId, device: DeviceId, keep: tuple[StatementId, ...], hlc: Hlc
) -> Statement:
    """Return the removal of a member, or one's own leaving; see `membership.removal_keep` for `keep`."""
    return _make(key, pool_id=pool_id, hlc=hlc, body=RemoveMember(device=device, keep=keep))


def make_role(
    key: DeviceKey, *, pool_id: PoolId, device: DeviceId, role: Role, keep: tuple[StatementId, ...] = (), hlc: Hlc
) -> Statement:
    """Return a change of role; for a demotion see `membership.removal_keep` for `keep`."""
    return _make(key, pool_id=pool_id, hlc=hlc, body=SetRole(device=device, role=role, keep=keep))


def _make(
    key: DeviceKey, *, pool_id: PoolId | None, hlc: Hlc, body: StatementBody, cosigner: _Signer | None = None
) -> Statement:
    content = _Content(
        kind=body.KIND,
        pool_id=pool_id,
        hlc=hlc,
        author_key=key.public_key,
        body=encode_cbor(encode_fields(body)),
    )
    signed = encode_cbor(encode_fields(content))
    signers: list[_Signer] = [key] if cosigner is None else [key, cosigner]
    return _statement(content, body, signed=signed, signatures=tuple(signer.sign(signed) for signer in signers))


def _statement(
    content: _Content, body: StatementBody | None, *, signed: bytes, signatures: tuple[bytes, ...]
) -> Statement:
    statement_id = StatementId(blake3(signed).digest())
    return Statement(
        statement_id=statement_id,
        pool_id=PoolId(statement_id) if content.pool_id is None else content.pool_id,
        hlc=content.hlc,
        author_key=content.author_key,
        author=device_id_of(content.author_key),
        body=body,
        signed=signed,
        signatures=signatures,
        user=decode_add_device_untrusted(body.user) if isinstance(body, Join) else None,
    )


def _is_user_of(user: SignedAddDevice, device_key: PublicKey) -> bool:
    return user.content.device_key == device_key and add_device_is_signed(user)
