"""A QR code drawn with half blocks, two rows of it in one of the terminal."""

import io

import segno

#: White on black whatever the terminal's own colours are, and back.
_COLOURS = "\x1b[97;40m"
_RESET = "\x1b[0m"


def draw_qr(text: str, *, has_colours: bool) -> str:
    """Return the QR code of `text`, light modules as blocks.

    Args:
        has_colours: set the colours, so that it can be read on a light terminal, too.
    """
    buffer = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out=buffer, border=2, compact=True)
    if not has_colours:
        return buffer.getvalue()
    return "".join(f"{_COLOURS}{line}{_RESET}\n" for line in buffer.getvalue().splitlines())
