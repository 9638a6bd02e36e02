"""Device keys: Ed25519, and the ids that follow from them.

A device is its key. Invites are such keys as well: whoever holds the seed may sign with it. `cryptography` does the
mathematics; what it lets through and we do not are public keys of small order, for which one signature fits any text.
"""

from functools import lru_cache

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from poolnet.ids import DeviceId, PublicKey, short_id

SEED_SIZE = 32

#: The y coordinates of the eight points whose order divides 8, in all their encodings below 2^255 (0 and 1 have a
#: second one: p and p + 1). The top bit of an encoding is the sign of x and is ignored here.
_SMALL_ORDER_Y = frozenset(
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
)


class DeviceKey:
    """The secret key of a device, or of an invite. Its `repr` shows the id only.

    Attributes:
        seed: the secret, 32 bytes; what is stored.
        public_key: the public key, 32 bytes.
        device_id: the hash of the public key.
    """

    __slots__ = ("_private_key", "device_id", "public_key", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_SIZE:
            raise ValueError(f"a seed has {SEED_SIZE} bytes")
        self.seed = bytes(seed)
        self._private_key = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.public_key = PublicKey(self._private_key.public_key().public_bytes_raw())
        self.device_id = device_id_of(self.public_key)

    @classmethod
    def from_seed(cls, seed: bytes) -> "DeviceKey":
        """Return the key of a 32-byte seed (from the system's random source, or from a store).

        Raises:
            ValueError: not 32 bytes.
        """
        return cls(seed)

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`, 64 bytes. What is signed begins with a label that says what it is."""
        return self._private_key.sign(data)

    def __repr__(self) -> str:
        return f"<DeviceKey {short_id(self.device_id)}>"


def device_id_of(public_key: PublicKey) -> DeviceId:
    """Return the id of the device that holds the secret of `public_key`."""
    return DeviceId(blake3(public_key).digest())


def is_small_order(public_key: bytes) -> bool:
    """Return whether `public_key` is one of the keys for which a signature proves nothing."""
    return len(public_key) == 32 and public_key[:31] + bytes([public_key[31] & 0x7F]) in _SMALL_ORDER_Y


def verify_signature(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether `signature` is the one of `data` by the holder of `public_key`; False on anything wrong."""
    try:
        _loaded(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=1024)
def _loaded(public_key: bytes) -> Ed25519PublicKey:
    """Return a key that can check signatures; a pool has few authors and many messages.

    Raises:
        ValueError: not a key, or one for which a signature proves nothing.
    """
    if is_small_order(public_key):
        raise ValueError("a key of small order")
    return Ed25519PublicKey.from_public_bytes(public_key)
