"""The words of a message, and what people may type to find them. Pure.

A word is what the tokenizer of FTS5 called unicode61 takes for one: letters and digits, in any case, without accents.
"""

import re
import unicodedata
from typing import Final

from poolnet.errors import WireError
from poolnet.wire.bodies import (
    OFFER_KINDS,
    AnnouncementBody,
    FolderBody,
    MediaBody,
    OfferBody,
    StreamBody,
    TextBody,
    decode_body_untrusted,
)
from poolnet.wire.message import Message

_SEARCHABLE_KINDS: Final = frozenset({TextBody.KIND, AnnouncementBody.KIND}) | OFFER_KINDS
_PIECE: Final = re.compile(r'"([^"]*)"?|([^\s"]+)')


def searchable_text(message: Message) -> str | None:
    """Return what a search finds a message by: text, or the name of what is offered. None for nothing."""
    if message.content.kind not in _SEARCHABLE_KINDS:
        return None
    try:
        body = decode_body_untrusted(message.content.kind, message.content.body)
    except WireError:
        return None  # of another version
    match body:
        case TextBody(text=text) | AnnouncementBody(text=text):
            return text
        case OfferBody(name=name) | FolderBody(name=name) | MediaBody(name=name) | StreamBody(name=name):
            return name
    return None


def match_expression(typed: str) -> str | None:
    """Return what FTS5 is to match for what somebody typed; None if there is no word in it.

    All words must be there; ``word*`` is any word that begins so; ``"some words"`` must stand in a row. Everything else
    is a word or between words: nothing that is typed is an operator, or an error.
    """
    pieces = [(phrase or word, word.endswith("*")) for phrase, word in _PIECE.findall(typed)]
    quoted = [_quote(piece) + (" *" if is_prefix else "") for piece, is_prefix in pieces if _has_word(piece)]
    return " AND ".join(quoted) or None


def _has_word(piece: str) -> bool:
    """Return whether FTS5 (unicode61) sees a word in it."""
    return any(unicodedata.category(char)[0] in "LN" or unicodedata.category(char) == "Co" for char in piece)


def _quote(piece: str) -> str:
    clean = piece.encode(errors="replace").decode().replace("\0", " ").replace('"', " ")
    return f'"{clean}"'
