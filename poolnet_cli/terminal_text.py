"""Bytes from others as text for a terminal: nothing in them acts, and nothing hides. No I/O."""

import codecs

from poolnet import printable


class TerminalText:
    """Turns bytes, in whatever pieces they come, into lines and parts of lines."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> str:
        """Return the text of `data`; a character that is not complete comes with the next."""
        lines = self._decoder.decode(data).replace("\r\n", "\n").split("\n")
        return "\n".join(printable(line.replace("\t", "    ")) for line in lines)
