"""Addresses of sync servers and invite links, as people pass them on.

A server is ``poolnet://HOST:PORT/<server key>``, an invite ``poolnet://HOST:PORT/<server key>/<pool id>#<secret>``.
Further servers of the pool follow the pool id as ``?server=HOST:PORT/<key>&server=…``. The secret is the seed of the
invite key: whoever has the link may join, so links are never logged and no `repr` shows the secret.
"""

import ipaddress
import re

import attrs

from poolnet.errors import InvalidAddress, InvalidInvite, WireError
from poolnet.identity.keys import DeviceKey, is_small_order
from poolnet.ids import PoolId, PublicKey, decode_id_untrusted, encode_id
from poolnet.limits import MAX_INVITE_LINK_CHARS, MAX_SERVERS_PER_INVITE

SCHEME = "poolnet://"
_SERVER_OPTION = "server="
_MAX_HOST_CHARS = 253
_HOST_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]{0,62}(\.[a-z0-9_][a-z0-9_-]{0,62})*\.?", re.IGNORECASE | re.ASCII)
#: What systems call interfaces; `ipaddress` would take anything, control characters too.
_SCOPE = re.compile(r"[a-z0-9][a-z0-9._-]{0,14}", re.IGNORECASE | re.ASCII)


@attrs.frozen(kw_only=True)
class ServerAddress:
    """Where a sync server is, and the key that it must prove to hold. `str()` gives its link."""

    host: str
    port: int
    key: PublicKey = attrs.field(repr=encode_id)

    def __str__(self) -> str:
        return SCHEME + _format_place(self)


@attrs.frozen(kw_only=True)
class InviteLink:
    """An invite into a pool: its servers, in the order in which to try them, and the secret of the invite key."""

    servers: tuple[ServerAddress, ...]
    pool_id: PoolId = attrs.field(repr=encode_id)
    secret: bytes = attrs.field(repr=False)

    def invite_key(self) -> DeviceKey:
        """Return the key that signs a Join through this invite."""
        return DeviceKey.from_seed(self.secret)


def format_server_address(address: ServerAddress) -> str:
    """Return the link of a sync server."""
    return str(address)


def format_invite_link(link: InviteLink) -> str:
    """Return an invite as text, secret included: for the one who is invited, and for nobody else."""
    first, *others = link.servers
    query = "&".join(_SERVER_OPTION + _format_place(server) for server in others)
    return f"{first}/{encode_id(link.pool_id)}{'?' + query if query else ''}#{encode_id(link.secret)}"


def parse_server_address_untrusted(text: str) -> ServerAddress:
    """Return the server that a link names.

    Raises:
        InvalidAddress: not such a link; the message says what is wrong with it.
    """
    rest = _without_scheme(text, InvalidAddress, "a server's address")
    if "#" in rest or rest.count("/") > 1:
        raise InvalidAddress("this is an invite link; a server's address ends after the server's key")
    return _parse_place(rest, InvalidAddress)


def parse_invite_link_untrusted(text: str) -> InviteLink:
    """Return the invite in a link.

    Raises:
        InvalidInvite: not such a link; the message says what is wrong with it, and never quotes the secret.
    """
    rest = _without_scheme(text, InvalidInvite, "an invite link")
    rest, hash_sign, secret = rest.partition("#")
    path, _, query = rest.partition("?")
    parts = path.split("/")
    if len(parts) == 2 and not hash_sign:
        raise InvalidInvite("this is a server's address; an invite link goes on with a pool id, # and a secret")
    if not hash_sign:
        raise InvalidInvite("the invite link has no # part, its end is cut off; put the whole link in quotes")
    if len(parts) != 3:
        raise InvalidInvite(f"an invite link reads {SCHEME}HOST:PORT/SERVER-KEY/POOL-ID#SECRET")
    return InviteLink(
        servers=(_parse_place("/".join(parts[:2]), InvalidInvite), *_parse_query(query)),
        pool_id=PoolId(_parse_id(parts[2], "pool id", InvalidInvite)),
        secret=_parse_id(secret, "secret after the #", InvalidInvite),
    )


_Error = type[InvalidAddress] | type[InvalidInvite]


def _without_scheme(text: str, error: _Error, what: str) -> str:
    text = text.strip()
    if not text:
        raise error(f"{what} was expected, and there is nothing")
    if len(text) > MAX_INVITE_LINK_CHARS:
        raise error(f"{what} has at most {MAX_INVITE_LINK_CHARS} characters, this has {len(text)}")
    if any(char.isspace() for char in text):
        raise error(f"{what} holds no spaces or line breaks; it may have been broken into lines")
    if text[: len(SCHEME)].lower() != SCHEME:
        raise error(f"{what} begins with {SCHEME}")
    return text[len(SCHEME) :]


def _parse_query(query: str) -> tuple[ServerAddress, ...]:
    """Return the further servers; options of a newer version are skipped."""
    places = [option[len(_SERVER_OPTION) :] for option in query.split("&") if option.lower().startswith(_SERVER_OPTION)]
    if len(places) >= MAX_SERVERS_PER_INVITE:
        raise InvalidInvite(f"an invite link names at most {MAX_SERVERS_PER_INVITE} servers")
    return tuple(_parse_place(place, InvalidInvite) for place in places)


def _parse_place(text: str, error: _Error) -> ServerAddress:
    """Return the server in HOST:PORT/KEY."""
    authority, slash, key = text.partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise error("a server is named as HOST:PORT with a port from 1 to 65535")
    if not slash:
        raise error("the server's key is missing after HOST:PORT")
    public_key = _parse_id(key, "server's key", error)
    if is_small_order(public_key):
        raise error("the server's key is one that anybody could use")
    return ServerAddress(host=_parse_host(host, error), port=int(port), key=PublicKey(public_key))


def _parse_host(text: str, error: _Error) -> str:
    if text.startswith("[") and text.endswith("]"):
        try:
            address = ipaddress.IPv6Address(text[1:-1])
        except ValueError as exc:
            raise error("what is in brackets is not an IPv6 address") from exc
        if address.scope_id is not None and not _SCOPE.fullmatch(address.scope_id):
            raise error("what follows the % in an IPv6 address is the name or the number of an interface")
        return str(address)
    if ":" in text:
        raise error("an IPv6 address is written in brackets: [ADDRESS]:PORT")
    if len(text) > _MAX_HOST_CHARS or not _HOST_NAME.fullmatch(text):
        raise error("the host is neither a name nor an IP address")
    return text.lower()


def _parse_id(text: str, what: str, error: _Error) -> bytes:
    try:
        return decode_id_untrusted(text)
    except WireError as exc:
        hint = "it is cut off" if len(text) < 52 else "it is not copied exactly"
        raise error(f"the {what} has 52 letters and digits 2-7; {hint}") from exc


def _format_place(server: ServerAddress) -> str:
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{host}:{server.port}/{encode_id(server.key)}"
