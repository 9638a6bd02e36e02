"""Text from others, made safe to show in a terminal.

A message, a name or a reason may hold whatever its author likes: escape sequences that repaint the screen, line breaks
that fake another speaker, bidirectional overrides that swap words, characters of no width that make two names look
alike, heaps of accents that reach into the lines above. `printable` writes each of them out as a Python escape
(``\\x1b``, ``\\u202e``), so that nothing acts and nothing hides. Pure.
"""

import unicodedata
from typing import Final

#: Control, format (bidi, zero-width), lone surrogates, private use; line and paragraph separators.
_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
#: Characters of other categories that show as nothing or as a blank (Unicode's Default_Ignorable_Code_Point, and the
#: braille blank). Not the variation selectors U+FE00 to U+FE0F, which ordinary emoji carry. Other unassigned
#: characters stay: they may be emoji that are newer than this Python.
BLANKS: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2065\u2800\u3164\uffa0"
    + "".join(chr(code) for first, last in ((0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF)) for code in range(first, last + 1))
)
#: Marks on one character that are shown: pointed Hebrew with accents has five, Tibetan writes one more.
_MAX_MARKS: Final = 6
_MARKS: Final = frozenset({"Mn", "Me"})
_SELECTORS: Final = frozenset(map(chr, range(0xFE00, 0xFE10)))


def printable(text: str) -> str:
    """Return `text` with every control, invisible and direction-changing character written out as an escape.

    So are marks that have no character to stand on, or too many on one. Line breaks and tabs are control characters,
    too: split lines before. Plain text comes back as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = []
    room = 0  # for marks on the character before
    for char in text:
        category = unicodedata.category(char)
        is_mark = category in _MARKS
        if category in _HIDDEN_CATEGORIES or char in BLANKS or (is_mark and not room):
            shown.append(_escape(char))
            room = 0
        else:
            shown.append(char)
            room = room - 1 if is_mark else _MAX_MARKS
    return "".join(shown)


def looks_as(text: str) -> str:
    """Return what texts have in common that look alike, or nearly: to compare them by, not to be shown.

    Case, composition, width and what shows as nothing make no difference. Letters of different scripts that look alike
    do: telling them apart takes tables that change with every version of Unicode.
    """
    seen = "".join(char for char in text if not _shows_nothing(char))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold()).casefold()
    return folded.replace("ı", "i")  # both are I in capitals


def _shows_nothing(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN_CATEGORIES or char in BLANKS or char in _SELECTORS


def _escape(char: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    if named:
        return named
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
