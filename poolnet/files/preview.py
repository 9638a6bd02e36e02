"""A picture's size and a tiny preview of it, for the message that offers it. Needs Pillow (``poolnet[media]``).

Without Pillow, and of what is no picture that it knows, there is neither: the picture is offered all the same. A
preview is made anew from the pixels: nothing of what a camera writes beside them (EXIF: place, time, device) gets into
it, only the way up is taken from there. Only this device's own pictures are opened; those of others are never decoded.

Synchronous, to be called in a thread.
"""

import io
import logging
import struct
from pathlib import Path
from typing import Final

import attrs

from poolnet.limits import MAX_PREVIEW_SIZE, MIB

try:
    from PIL import Image, ImageOps
except ImportError:  # an extra of poolnet; mypy sees it installed
    HAS_PILLOW = False
else:
    HAS_PILLOW = True

logger = logging.getLogger(__name__)

#: What pictures are made of everywhere; other decoders are not reached.
_FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
#: Decoded pixels at most, four bytes each and twice while colours are changed. A JPEG of any size stays below: it is
#: decoded at an eighth.
_MAX_DECODED_PIXELS: Final = 8 * MIB
#: Longest side and JPEG quality, tried one after the other until the preview is small enough.
_SIZES: Final = ((256, 60), (192, 55), (128, 50), (96, 40), (48, 30))
_BACKGROUND: Final = (255, 255, 255)
#: What a decoder says of a damaged or malicious picture; each has its own way.
_DAMAGED: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    *((Image.DecompressionBombError, Image.DecompressionBombWarning) if HAS_PILLOW else ()),
)


@attrs.frozen(kw_only=True)
class Preview:
    """Width and height in pixels as it is to be seen, 0 if unknown, and a JPEG of at most `MAX_PREVIEW_SIZE`."""

    width: int = 0
    height: int = 0
    jpeg: bytes = attrs.field(default=b"", repr=False)


def make_preview(path: Path) -> Preview:
    """Return what can be shown of a picture before it is here; empty where that cannot be found out.

    Args:
        path: a file; what cannot be read has no preview either.
    """
    if not HAS_PILLOW:
        return Preview()
    found = Preview()
    try:
        with Image.open(path, formats=_FORMATS) as image:
            found = _measure(image)
            found = attrs.evolve(found, jpeg=_draw(image))
    except _DAMAGED as exc:
        logger.info("no preview of a picture: %s", type(exc).__name__)
    return found


def _measure(image: "Image.Image") -> Preview:
    """Return the size as the picture is to be seen: cameras store it lying on its side."""
    is_on_its_side = image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
    width, height = reversed(image.size) if is_on_its_side else image.size
    return Preview(width=width, height=height)


#: Number of the EXIF field that says which way is up, and its values for a quarter turn.
_ORIENTATION: Final = 0x0112
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})


def _draw(image: "Image.Image") -> bytes:
    longest = _SIZES[0][0]
    image.draft("RGB", (longest, longest))  # a JPEG is decoded at the next larger of 1/1 … 1/8; others as they are
    if image.width * image.height > _MAX_DECODED_PIXELS:
        return b""
    image.thumbnail((longest, longest))
    upright = _opaque(ImageOps.exif_transpose(image))
    for side, quality in _SIZES:
        upright.thumbnail((side, side))
        encoded = io.BytesIO()
        upright.save(encoded, "JPEG", quality=quality, optimize=True)
        if encoded.tell() <= MAX_PREVIEW_SIZE:
            return encoded.getvalue()
    return b""


def _opaque(image: "Image.Image") -> "Image.Image":
    """Return the pixels alone, on white where they let something through: no comment, profile or EXIF comes along."""
    seen = image.convert("RGBA")
    plain = Image.new("RGB", seen.size, _BACKGROUND)
    plain.paste(seen, mask=seen)
    return plain
