"""Device keys and the certificates of links."""

import pytest
from aioquic.tls import AlertBadCertificate, verify_certificate
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509 import Certificate
from hypothesis import given
from hypothesis import strategies as st

from poolnet.identity.certificate import link_certificate, pinning_anchor_pem, private_key_of
from poolnet.identity.keys import DeviceKey, device_id_of, is_small_order, verify_signature
from poolnet.ids import PublicKey, encode_id

ALICE, BOB = DeviceKey.from_seed(b"a" * 32), DeviceKey.from_seed(b"b" * 32)
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_what_a_key_signs_verifies_with_its_public_key_only(seed: bytes, data: bytes) -> None:
    key = DeviceKey.from_seed(seed)
    signature = key.sign(data)
    assert verify_signature(key.public_key, signature, data)
    assert not verify_signature(key.public_key, signature, data + b"!")
    assert not verify_signature(BOB.public_key, signature, data)
    assert device_id_of(key.public_key) == key.device_id


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_garbage_is_no_signature_and_raises_nothing(public_key: bytes, signature: bytes) -> None:
    assert not verify_signature(public_key, signature, b"data")


def test_a_seed_of_another_size_is_refused_and_a_key_does_not_show_its_seed() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        DeviceKey.from_seed(b"short")
    assert repr(ALICE) == f"<DeviceKey {encode_id(ALICE.device_id)[:8]}>"


def test_every_key_of_small_order_is_refused_in_every_encoding() -> None:
    encodings = small_order_encodings()
    assert len(encodings) == 14
    assert all(is_small_order(encoding) for encoding in encodings)
    assert not is_small_order(ALICE.public_key)


def test_the_signature_that_fits_any_text_would_pass_without_the_check() -> None:
    identity = b"\x01" + bytes(31)
    forged = identity + bytes(32)
    Ed25519PublicKey.from_public_bytes(identity).verify(forged, b"anything")  # what the library lets through
    assert not verify_signature(identity, forged, b"anything")


def test_a_link_certificate_passes_the_anchor_of_its_key_and_no_other() -> None:
    check(link_certificate(ALICE), pinned=ALICE)
    with pytest.raises(AlertBadCertificate):
        check(link_certificate(BOB), pinned=ALICE)


def test_a_certificate_that_names_the_pinned_device_but_lacks_its_signature_is_refused() -> None:
    """Same names as Alice's, signed by Bob."""
    from poolnet.identity import certificate

    forged = certificate._builder(
        "poolnet link", issuer=encode_id(ALICE.device_id), public_key=private_key_of(ALICE).public_key()
    ).sign(private_key_of(BOB), algorithm=None)
    with pytest.raises(AlertBadCertificate):
        check(forged, pinned=ALICE)


def test_an_intermediate_certificate_of_the_peer_cannot_vouch_for_it() -> None:
    """Bob presents, next to his leaf, an authority with the pinned name."""
    from cryptography.x509 import load_pem_x509_certificate

    fake_anchor = load_pem_x509_certificate(pinning_anchor_pem(BOB.public_key))
    with pytest.raises(AlertBadCertificate):
        verify_certificate(link_certificate(BOB), [fake_anchor], None, pinning_anchor_pem(ALICE.public_key))


def test_certificates_are_the_same_each_time_and_hold_the_device_key() -> None:
    certificate = link_certificate(ALICE)
    assert certificate == link_certificate(ALICE)
    public_key = certificate.public_key()
    assert isinstance(public_key, Ed25519PublicKey)
    assert public_key.public_bytes_raw() == ALICE.public_key
    assert pinning_anchor_pem(ALICE.public_key) == pinning_anchor_pem(PublicKey(ALICE.public_key))


def check(certificate: Certificate, *, pinned: DeviceKey) -> None:
    """Do what aioquic does with a peer's certificate."""
    verify_certificate(certificate, [], None, pinning_anchor_pem(pinned.public_key))


def small_order_encodings() -> set[bytes]:
    """All encodings below 2^255, with both signs, of the points whose order divides 8, by curve arithmetic."""
    torsion = {multiply(L, point) for point in curve_points(40)}
    ys = {y for _, y in torsion}
    assert len(torsion) == 8
    return {
        (value | sign << 255).to_bytes(32, "little")
        for y in ys
        for value in (y, y + P)
        if value < 2**255
        for sign in (0, 1)
    }


#: The prime order of the large subgroup; times a point, it leaves the part of small order.
L = 2**252 + 27742317777372353535851937790883648493


def curve_points(count: int) -> list[tuple[int, int]]:
    points = []
    for y in range(2, 2 + count):
        x_squared = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(x_squared, (P + 3) // 8, P)
        if x * x % P != x_squared:
            x = x * SQRT_M1 % P
        if x * x % P == x_squared:
            points.append((x, y))
    return points


def multiply(factor: int, point: tuple[int, int]) -> tuple[int, int]:
    result = (0, 1)
    while factor:
        if factor & 1:
            result = add(result, point)
        point = add(point, point)
        factor >>= 1
    return result


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, -1, P) % P
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P) % P
    return x, y
