"""Addresses of datagrams: a numeric host and a port, IPv4 always in plain form, whatever the socket's family.

A dual-stack socket speaks of IPv4 peers as ``::ffff:192.0.2.1``; that is undone and redone here, at the edge, so that
the same peer has one address everywhere else. A scope of a link-local address is part of the host (``fe80::1%2``).
"""

import ipaddress
import socket
from functools import lru_cache
from typing import Any

import trio

from poolnet.errors import Unreachable
from poolnet.limits import MAX_CANDIDATES

#: A numeric host and a port.
SocketAddress = tuple[str, int]

_MAPPED_PREFIX = "::ffff:"
#: Where a connected UDP socket is pointed to learn our own address; nothing is sent there (RFC 5737, RFC 3849).
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


@lru_cache(maxsize=4096)
def from_kernel(address: tuple[Any, ...]) -> SocketAddress:
    """Return what `recvmsg` or `getsockname` calls an address in our form."""
    host, port = address[0], address[1]
    if host.startswith(_MAPPED_PREFIX) and "." in host:
        host = host[len(_MAPPED_PREFIX) :]
    elif len(address) == 4 and address[3] and "%" not in host:
        host = f"{host}%{address[3]}"
    return (host, port)


@lru_cache(maxsize=4096)
def to_kernel(family: int, address: SocketAddress) -> tuple[Any, ...] | None:
    """Return an address as a socket of `family` takes it; None if it cannot go there, or is no address."""
    host, _, scope = address[0].partition("%")
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    if family == socket.AF_INET:
        return (host, address[1]) if version == 4 else None
    if version == 4:
        return (_MAPPED_PREFIX + host, address[1], 0, 0)
    return (host, address[1], 0, int(scope) if scope.isdecimal() else 0)


def is_numeric(host: str) -> bool:
    """Return whether `host` is an IP address and needs no look-up."""
    return to_kernel(socket.AF_INET6, (host, 1)) is not None


def is_loopback(host: str) -> bool:
    """Return whether an IP address reaches this machine only: also none (``::``) does, and IPv4 in the form of IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    plain = getattr(address, "ipv4_mapped", None) or address
    return plain.is_loopback or plain.is_unspecified


def format_address(address: SocketAddress) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve(address: SocketAddress) -> list[SocketAddress]:
    """Return the numeric addresses of a host name (of an IP address: itself), best first.

    Raises:
        Unreachable: there is no such name.
    """
    if is_numeric(address[0]):
        await trio.lowlevel.checkpoint()
        return [address]
    try:
        found = await trio.socket.getaddrinfo(address[0], address[1], type=socket.SOCK_DGRAM)
    except OSError as exc:
        raise Unreachable(f"no address is known for {address[0]}") from exc
    return list(dict.fromkeys(from_kernel(entry[4]) for entry in found))


def host_addresses(bound: SocketAddress) -> tuple[SocketAddress, ...]:
    """Return the addresses at which this host can be reached on the port of the `bound` socket; sends nothing.

    A socket bound to one address has that one. Otherwise the primary address of each family, and loopback only if there
    is nothing else.
    """
    host, port = bound
    if not ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        return (bound,)
    families = [socket.AF_INET] if ":" not in host else [socket.AF_INET, socket.AF_INET6]
    found = [_primary_address(family, target) for family, target in _ELSEWHERE if family in families]
    hosts = [address for address in found if address is not None and not is_loopback(address)]
    return tuple((name, port) for name in (hosts or ["127.0.0.1"])[:MAX_CANDIDATES])


def _primary_address(family: int, target: str) -> str | None:
    """Return our own address on the way to `target`, if there is a way."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            host = str(probe.getsockname()[0])
    except OSError:
        return None
    return None if ipaddress.ip_address(host).is_link_local else host
