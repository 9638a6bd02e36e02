"""What is a picture: told by its first bytes, not by its name. Pure.

Everybody fetches a picture that is shown, unasked; so something else is not to be shown by mistake.
"""

from typing import Final

#: First bytes that `is_picture` wants to see.
HEAD_SIZE: Final = 16
#: JPEG, PNG, GIF (two versions), BMP, TIFF (two byte orders), JPEG XL (bare, and in a container), icons.
_MAGIC: Final = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"\xff\x0a",
    b"\x00\x00\x00\x0cJXL ",
    b"\x00\x00\x01\x00",
)
#: Brands of the container that pictures share with films (ISO 14496-12): AVIF, HEIF.
_BRANDS: Final = frozenset((b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1"))


def is_picture(head: bytes) -> bool:
    """Return whether a file that begins so is a picture."""
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_heif = head[4:8] == b"ftyp" and head[8:12] in _BRANDS
    return head.startswith(_MAGIC) or is_webp or is_heif
