"""What a person types into `join`: messages, and commands that begin with a slash."""

import re
import shlex
from typing import Final

import attrs

HELP: Final = (
    "a line is a message to all; /offer PATH offers a file or folder (/offer --media PATH shows a picture), "
    "/get FILE [PATH] fetches one, /files lists them, "
    "/who shows who is here; /older shows what was said before, /search WORDS finds, /sessions lists sessions; "
    "/retract ID takes a message back, /announce TEXT announces; /quit leaves, //TEXT sends a text that begins with a "
    "slash"
)


@attrs.frozen
class Say:
    """Send a text."""

    text: str


@attrs.frozen
class OfferFile:
    """Offer a file or a folder; the rest as of `poolnet offer`."""

    path: str
    name: str | None = None
    media: bool = False
    exclude: tuple[str, ...] = ()
    hidden: bool = False


@attrs.frozen
class GetFile:
    """Fetch a file to a path, or to the working directory."""

    file: str
    out: str | None = None


@attrs.frozen
class ListFiles:
    """Show what is offered."""


@attrs.frozen
class ListPeers:
    """Show who is here."""


@attrs.frozen
class ShowOlder:
    """Show what was said before what was shown."""


@attrs.frozen
class Search:
    """Show messages with these words."""

    words: str


@attrs.frozen
class ListSessions:
    """Show the latest sessions."""


@attrs.frozen
class RetractMessage:
    """Take a message back, by the beginning of its id."""

    message: str


@attrs.frozen
class Announce:
    """Announce a text."""

    text: str


@attrs.frozen
class Quit:
    """Leave."""


@attrs.frozen
class ShowHelp:
    """Show the commands."""


@attrs.frozen
class Nothing:
    """An empty line."""


Typed = (
    Say
    | OfferFile
    | GetFile
    | ListFiles
    | ListPeers
    | ShowOlder
    | Search
    | ListSessions
    | RetractMessage
    | Announce
    | Quit
    | ShowHelp
    | Nothing
)
#: An option of /offer; a value with spaces is in quotes.
_OFFER_OPTION: Final = re.compile(
    r"""--(?P<flag>media|hidden)\s+|--(?P<option>name|exclude)\s+(?P<value>"[^"]*"|'[^']*'|\S+)\s+"""
)
_WITHOUT_ARGUMENT: Final[dict[str, Typed]] = {
    "/files": ListFiles(),
    "/who": ListPeers(),
    "/older": ShowOlder(),
    "/sessions": ListSessions(),
    "/quit": Quit(),
    "/exit": Quit(),
    "/help": ShowHelp(),
    "/?": ShowHelp(),
}


def parse_typed(line: str) -> Typed:
    """Return what a typed line asks for.

    Names with spaces are put in quotes, except the path of `/offer`, which is the rest of its line.

    Raises:
        ValueError: a slash command that does not exist or lacks its argument; the message says what to type.
    """
    text = line.strip()
    if not text:
        return Nothing()
    if text.startswith("//"):
        return Say(text[1:])
    if not text.startswith("/"):
        return Say(line)
    word, _, rest = text.partition(" ")
    return _parse_command(word.lower(), rest.strip())


def _parse_command(word: str, rest: str) -> Typed:
    if word in _WITHOUT_ARGUMENT:
        return _WITHOUT_ARGUMENT[word]
    match word:
        case "/offer":
            return _parse_offer(rest)
        case "/get":
            words = _split(rest)
            if not 1 <= len(words) <= 2:
                raise ValueError(
                    "type /get, a file's name or id and, if you like, where to; names with spaces in quotes"
                )
            return GetFile(*words)
        case "/search":
            if not any(char.isalnum() for char in rest):
                raise ValueError('type /search and the words to find; word* and "several words" work, too')
            return Search(rest)
        case "/retract":
            if len(rest.split()) != 1:
                raise ValueError("type /retract and the beginning of a message's id; /older and /search show ids")
            return RetractMessage(rest)
        case "/announce":
            if not rest:
                raise ValueError("type /announce and a text")
            return Announce(rest)
        case _:
            raise ValueError(f"there is no command {word}; /help lists those that there are")


def _parse_offer(rest: str) -> OfferFile:
    """Return what to offer: options as of `poolnet offer`, then a path, which is all the rest."""
    flags: set[str] = set()
    values: dict[str, list[str]] = {"name": [], "exclude": []}
    while match := _OFFER_OPTION.match(rest):
        rest = rest[match.end() :]
        if match["flag"]:
            flags.add(match["flag"])
        else:
            values[match["option"]].append(_unquoted(match["value"]))
    path = _unquoted(rest)
    if not path or rest.startswith("--"):
        raise ValueError("type /offer, --media, --hidden, --name NAME or --exclude PATTERN if you like, and a path")
    return OfferFile(
        path,
        name=values["name"][-1] if values["name"] else None,
        media="media" in flags,
        exclude=tuple(values["exclude"]),
        hidden="hidden" in flags,
    )


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an apostrophe in a name is more likely than an unfinished quotation
        return text.split()


def _unquoted(text: str) -> str:
    words = _split(text)
    return words[0] if len(words) == 1 else text
