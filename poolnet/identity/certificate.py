"""Certificates of links, and how a dialler pins the one key that it expects, by public interfaces only.

TLS wants certificate chains; poolnet wants "the other end holds this Ed25519 key". So the device key issues a leaf for
itself, and the dialler makes up the matching anchor: a certificate authority with the name of the device and the pinned
key. A leaf verifies against that anchor if, and only if, the pinned key signed it. Nothing checks an anchor's own
signature (it is trusted because it is configured), so a throwaway key signs it. Names and dates carry no meaning.

TLS over TCP takes its keys from files, which a device key must not be copied to. There the leaf is for a key made for
the life of one process; whoever got hold of that one could not prove the device key, which every link asks for as well.
"""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from poolnet.identity.keys import DeviceKey, device_id_of
from poolnet.ids import PublicKey, encode_id

_NOT_BEFORE = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
#: Signs anchors; public knowledge, as good as any other.
_ANCHOR_SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def private_key_of(key: DeviceKey) -> Ed25519PrivateKey:
    """Return a device key as the TLS stack takes it."""
    return Ed25519PrivateKey.from_private_bytes(key.seed)


def link_certificate(key: DeviceKey) -> x509.Certificate:
    """Return the certificate that a device shows on its links; the same bytes for the same key, valid until 9999."""
    return (
        _builder("poolnet link", issuer=encode_id(key.device_id), public_key=_loaded(key.public_key))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private_key_of(key), algorithm=None)
    )


def lane_certificate(key: DeviceKey, lane_key: EllipticCurvePublicKey) -> x509.Certificate:
    """Return the certificate that a device shows where its lanes are dialled: by the device key, for `lane_key`."""
    return (
        _builder("poolnet lane", issuer=encode_id(key.device_id), public_key=lane_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private_key_of(key), algorithm=None)
    )


def pinning_anchor_pem(public_key: PublicKey) -> bytes:
    """Return the trust anchor, in PEM, that admits the link and lane certificates of exactly this key.

    For `load_verify_locations(cadata=...)` of a `QuicConfiguration`, and as text of an `SSLContext`.
    """
    name = encode_id(device_id_of(public_key))
    anchor = (
        _builder(name, issuer=name, public_key=_loaded(public_key))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(_ANCHOR_SIGNER, algorithm=None)
    )
    return anchor.public_bytes(serialization.Encoding.PEM)


def _loaded(public_key: PublicKey) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_key)


def _builder(
    subject: str, *, issuer: str, public_key: Ed25519PublicKey | EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_common_name(subject))
        .issuer_name(_common_name(issuer))
        .public_key(public_key)
        .serial_number(1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
