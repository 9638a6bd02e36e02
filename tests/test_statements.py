"""Signed things: messages, users, pool statements."""

import attrs
import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.clock import Hlc, make_hlc
from poolnet.errors import TextTooLong, WireError
from poolnet.identity.authorship import sign_message, signature_is_valid
from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import (
    Genesis,
    Join,
    RemoveMember,
    Role,
    Statement,
    decode_statement_untrusted,
    encode_statement,
    make_genesis,
    make_invite,
    make_join,
    make_removal,
    make_role,
    statement_is_signed,
)
from poolnet.identity.user import (
    AddDevice,
    SignedAddDevice,
    add_device_is_signed,
    decode_add_device_untrusted,
    encode_add_device,
    found_user,
)
from poolnet.ids import DeviceId, PoolId, StatementId
from poolnet.limits import MAX_KEPT_STATEMENTS, MAX_NAME_CHARS, MAX_STATEMENT_SIZE, MAX_TEXT_CHARS
from poolnet.wire.bodies import Body, OfferBody, ProfileBody, TextBody
from poolnet.wire.cbor import encode_cbor
from poolnet.wire.message import decode_message_untrusted, encode_message
from poolnet.wire.schema import encode_fields

ALICE, BOB, INVITE = (DeviceKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
POOL = PoolId(b"p" * 32)
BOBS_USER = found_user(BOB, unix_ms=1, device_name="laptop")
HLC = make_hlc(1000)


def every_kind() -> list[Statement]:
    """One statement of each kind."""
    return [
        make_genesis(ALICE, name="our pool", nonce=bytes(16), hlc=HLC),
        make_invite(
            ALICE, pool_id=POOL, invite_key=INVITE.public_key, role=Role.ADMIN, expires_unix_ms=5, uses=3, hlc=HLC
        ),
        make_invite(ALICE, pool_id=POOL, invite_key=INVITE.public_key, expires_unix_ms=5, hlc=HLC),
        make_join(BOB, INVITE, pool_id=POOL, user=BOBS_USER, hlc=HLC),
        make_removal(ALICE, pool_id=POOL, device=BOB.device_id, keep=(StatementId(bytes(32)),), hlc=HLC),
        make_role(ALICE, pool_id=POOL, device=BOB.device_id, role=Role.ADMIN, hlc=HLC),
    ]


KINDS = pytest.mark.parametrize("statement", every_kind(), ids=lambda statement: statement.body.KIND)


class TestMessages:
    def test_a_signed_message_is_valid_after_the_wire(self) -> None:
        message = sign_message(ALICE, pool_id=POOL, hlc=HLC, body=TextBody(text="hello"))
        received = decode_message_untrusted(encode_message(message), POOL)
        assert received == message
        assert received.author == ALICE.device_id
        assert signature_is_valid(received)

    @given(st.data())
    def test_a_message_with_any_byte_changed_is_malformed_or_not_valid_or_the_same(self, data: st.DataObject) -> None:
        message = sign_message(ALICE, pool_id=POOL, hlc=HLC, body=TextBody(text="hello"))
        encoded = encode_message(message)
        try:
            received = decode_message_untrusted(changed(encoded, data), POOL)
        except WireError:
            return
        assert not signature_is_valid(received)

    def test_a_message_belongs_to_one_pool(self) -> None:
        here, there = (
            sign_message(ALICE, pool_id=pool_id, hlc=HLC, body=TextBody(text="hello"))
            for pool_id in (POOL, PoolId(b"q" * 32))
        )
        assert here.msg_id != there.msg_id
        assert not signature_is_valid(attrs.evolve(here, signed=there.signed))

    @pytest.mark.parametrize(
        "body",
        [
            TextBody(text=""),
            TextBody(text="x" * (MAX_TEXT_CHARS + 1)),
            ProfileBody(name=" "),
            OfferBody(file_id=bytes(32), name="", size=0),
        ],
    )
    def test_what_others_would_refuse_is_not_signed(self, body: Body) -> None:
        with pytest.raises(TextTooLong):
            sign_message(ALICE, pool_id=POOL, hlc=HLC, body=body)


class TestUsers:
    def test_the_first_device_founds_a_user_whose_id_is_the_hash_of_what_it_signed(self) -> None:
        user = decode_add_device_untrusted(encode_add_device(BOBS_USER))
        assert user == BOBS_USER
        assert add_device_is_signed(user)
        assert user.user_id != found_user(BOB, unix_ms=2, device_name="laptop").user_id

    def test_a_device_name_that_is_too_long_is_cut(self) -> None:
        user = found_user(BOB, unix_ms=1, device_name="x" * 100)
        assert user.content.device_name == "x" * MAX_NAME_CHARS

    def test_a_first_statement_that_adds_the_device_of_another_is_not_valid(self) -> None:
        content = AddDevice(signer_key=ALICE.public_key, device_key=BOB.public_key, device_name="", unix_ms=1)
        signed = encode_cbor(encode_fields(content))
        assert not add_device_is_signed(
            SignedAddDevice(user_id=BOBS_USER.user_id, content=content, signed=signed, signature=ALICE.sign(signed))
        )

    def test_a_further_device_is_signed_by_one_that_the_user_has(self) -> None:
        content = AddDevice(
            user_id=BOBS_USER.user_id,
            signer_key=BOB.public_key,
            device_key=ALICE.public_key,
            device_name="phone",
            unix_ms=1,
            expires_unix_ms=9,
        )
        signed = encode_cbor(encode_fields(content))
        added = decode_add_device_untrusted(encode_cbor([signed, BOB.sign(signed)]))
        assert added.user_id == BOBS_USER.user_id
        assert add_device_is_signed(added)
        assert not add_device_is_signed(attrs.evolve(added, signature=ALICE.sign(signed)))

    @given(st.data())
    def test_a_user_statement_with_any_byte_changed_is_malformed_or_not_valid(self, data: st.DataObject) -> None:
        try:
            received = decode_add_device_untrusted(changed(encode_add_device(BOBS_USER), data))
        except WireError:
            return
        assert not add_device_is_signed(received)

    @given(st.binary(max_size=100))
    def test_garbage_is_no_user_statement_and_raises_only_a_wire_error(self, encoded: bytes) -> None:
        with pytest.raises(WireError):
            decode_add_device_untrusted(encoded)


class TestStatements:
    @KINDS
    def test_a_statement_survives_the_wire_and_is_signed(self, statement: Statement) -> None:
        received = decode_statement_untrusted(encode_statement(statement))
        assert attrs.astuple(received) == attrs.astuple(statement)
        assert received == statement
        assert hash(received) == hash(statement)
        assert statement_is_signed(received)

    @KINDS
    @given(data=st.data())
    def test_a_statement_with_any_byte_changed_is_malformed_or_not_signed(
        self, statement: Statement, data: st.DataObject
    ) -> None:
        try:
            received = decode_statement_untrusted(changed(encode_statement(statement), data))
        except WireError:
            return
        assert not statement_is_signed(received)

    @KINDS
    def test_a_statement_with_signatures_missing_or_added_is_not_signed(self, statement: Statement) -> None:
        signatures = statement.signatures
        for wrong in (signatures[:-1], signatures[::-1] if len(signatures) > 1 else (), (*signatures, bytes(64))):
            assert not statement_is_signed(attrs.evolve(statement, signatures=wrong))

    def test_a_genesis_names_its_pool_by_its_own_hash(self) -> None:
        genesis = make_genesis(ALICE, name="x", nonce=bytes(16), hlc=HLC)
        assert genesis.pool_id == genesis.statement_id
        assert genesis.pool_id != make_genesis(ALICE, name="x", nonce=b"n" * 16, hlc=HLC).pool_id

    def test_a_join_without_the_secret_of_the_invite_is_not_signed(self) -> None:
        join = make_join(BOB, INVITE, pool_id=POOL, user=BOBS_USER, hlc=HLC)
        own = attrs.evolve(join, signatures=(join.signatures[0], BOB.sign(join.signed)))
        assert not statement_is_signed(own)

    def test_a_join_with_the_user_of_another_device_is_not_signed(self) -> None:
        join = make_join(ALICE, INVITE, pool_id=POOL, user=BOBS_USER, hlc=HLC)
        assert not statement_is_signed(join)

    def test_a_join_tells_whose_device_it_is(self) -> None:
        join = decode_statement_untrusted(
            encode_statement(make_join(BOB, INVITE, pool_id=POOL, user=BOBS_USER, hlc=HLC))
        )
        assert isinstance(join.body, Join)
        assert join.author == BOB.device_id
        assert join.user == BOBS_USER

    def test_a_message_is_no_statement_even_if_it_is_signed(self) -> None:
        message = sign_message(ALICE, pool_id=POOL, hlc=HLC, body=TextBody(text="hello"))
        with pytest.raises(WireError):
            decode_statement_untrusted(encode_cbor([message.signed, [message.signature]]))

    def test_another_label_is_no_statement_even_if_all_else_fits(self) -> None:
        fields = ["poolnet statement 2", "genesis", None, HLC, ALICE.public_key, encode_cbor(["name", bytes(16)])]
        signed = encode_cbor(fields)
        with pytest.raises(WireError, match="not a pool statement of this version"):
            decode_statement_untrusted(encode_cbor([signed, [ALICE.sign(signed)]]))

    def test_a_kind_of_a_newer_version_is_kept_with_its_bytes(self) -> None:
        statement = decode_statement_untrusted(newer_statement(POOL, HLC))
        assert statement.body is None
        assert encode_statement(statement) == newer_statement(POOL, HLC)
        assert statement_is_signed(statement)
        assert not statement_is_signed(attrs.evolve(statement, signatures=(bytes(64),)))

    @pytest.mark.parametrize(
        ("kind", "pool_id", "body"),
        [
            ("genesis", POOL, ["name", bytes(16)]),  # a genesis of a pool that is there already
            ("genesis", None, ["", bytes(16)]),
            ("genesis", None, ["x" * (MAX_NAME_CHARS + 1), bytes(16)]),
            ("genesis", None, ["name", bytes(15)]),
            ("invite", None, [bytes(32), 0, 5, None]),
            ("invite", POOL, [bytes(32), 2, 5, None]),
            ("invite", POOL, [bytes(32), 0, 5, 0]),
            ("invite", POOL, [bytes(31), 0, 5, 1]),
            ("join", POOL, [bytes(32), b"no user"]),
            ("remove_member", POOL, [bytes(32), [bytes(32)] * (MAX_KEPT_STATEMENTS + 1)]),
            ("set_role", POOL, [bytes(32), -1, []]),
            ("", POOL, []),
            ("newer", None, []),
        ],
    )
    def test_a_statement_with_a_field_out_of_bounds_is_refused(
        self, kind: str, pool_id: bytes | None, body: list[object]
    ) -> None:
        encoded = raw_statement(kind, pool_id, HLC, body)
        with pytest.raises(WireError):
            decode_statement_untrusted(encoded)

    def test_the_longest_removal_fits_a_statement(self) -> None:
        keep = tuple(StatementId(bytes(32)) for _ in range(MAX_KEPT_STATEMENTS))
        removal = make_removal(ALICE, pool_id=POOL, device=DeviceId(bytes(32)), keep=keep, hlc=HLC)
        encoded = encode_statement(removal)
        assert len(encoded) < MAX_STATEMENT_SIZE
        body = decode_statement_untrusted(encoded).body
        assert isinstance(body, RemoveMember)
        assert body.keep == keep

    @pytest.mark.parametrize("name", ["", "  ", "x" * (MAX_NAME_CHARS + 1)])
    def test_a_pool_needs_a_name_that_fits(self, name: str) -> None:
        with pytest.raises(TextTooLong):
            make_genesis(ALICE, name=name, nonce=bytes(16), hlc=HLC)

    @given(st.binary(max_size=200))
    def test_garbage_is_no_statement_and_raises_only_a_wire_error(self, encoded: bytes) -> None:
        for candidate in (encoded, cbor2.dumps([encoded, []])):
            with pytest.raises(WireError):
                decode_statement_untrusted(candidate)

    def test_the_name_of_a_pool_is_in_its_genesis(self) -> None:
        body = make_genesis(ALICE, name="our pool", nonce=bytes(16), hlc=HLC).body
        assert body == Genesis(name="our pool", nonce=bytes(16))


def changed(encoded: bytes, data: st.DataObject) -> bytes:
    """The bytes with one of them changed."""
    place = data.draw(st.integers(0, len(encoded) - 1))
    value = data.draw(st.integers(1, 255))
    return encoded[:place] + bytes([encoded[place] ^ value]) + encoded[place + 1 :]


def raw_statement(kind: str, pool_id: bytes | None, hlc: Hlc, body: list[object], *, key: DeviceKey = ALICE) -> bytes:
    """A signed statement of any kind and body."""
    signed = encode_cbor(["poolnet statement 1", kind, pool_id, hlc, key.public_key, encode_cbor(body)])
    return encode_cbor([signed, [key.sign(signed)]])


def newer_statement(pool_id: bytes, hlc: Hlc) -> bytes:
    return raw_statement("set_policy", pool_id, hlc, ["something new"])
