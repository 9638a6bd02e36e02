"""What a device remembers of its pools: ``pools/<pool id>/pool.json`` and ``statements.json`` in its home."""

import base64
import logging
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from poolnet.errors import LocalError, StoreError, UnknownPool, WireError
from poolnet.identity.invite_link import ServerAddress, parse_server_address_untrusted
from poolnet.identity.membership import Membership
from poolnet.identity.statements import decode_statement_untrusted
from poolnet.ids import PoolId, encode_id, short_id
from poolnet.storage.atomic_json import read_json, write_json
from poolnet.storage.home import Home

logger = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = 1
_RECORD = "pool.json"
_STATEMENTS = "statements.json"
#: Shorter prefixes of an id are taken for a name.
_MIN_PREFIX = 4
_MAX_PORT = 65535


@attrs.frozen(kw_only=True)
class HostedServer:
    """The sync server that this device runs for a pool while it is joined: where it listens, how others reach it."""

    listen_host: str
    port: int
    public_host: str


@attrs.frozen(kw_only=True)
class PoolRecord:
    """One pool of this device. `directory` holds everything about it.

    `display_name` is what this device was called when it entered last; it counts if the history does not say.
    """

    pool_id: PoolId
    name: str
    servers: tuple[ServerAddress, ...]
    hosted: HostedServer | None = None
    display_name: str | None = None
    directory: Path

    @property
    def database(self) -> Path:
        """Where its history is."""
        return self.directory / "messages.db"

    @property
    def files_directory(self) -> Path:
        """Where offers, downloads and hash trees are noted."""
        return self.directory / "files"

    @property
    def server_directory(self) -> Path:
        """Where a hosted server keeps its key and database."""
        return self.directory / "server"


class PoolRecords:
    """The pools of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def all(self) -> list[PoolRecord]:
        """Return every pool, by name.

        Raises:
            StoreError: a record cannot be read.
        """
        found = [self.get(pool_id) for pool_id in self._home.pool_ids()]
        return sorted((record for record in found if record is not None), key=lambda record: record.name)

    def get(self, pool_id: PoolId) -> PoolRecord | None:
        """Return one pool, or None if this device does not know it."""
        directory = self._home.path / "pools" / encode_id(pool_id)
        stored = read_json(directory / _RECORD, None)
        return None if stored is None else _decode(pool_id, directory, stored)

    def find(self, text: str) -> PoolRecord:
        """Return the pool of that name or id prefix.

        Raises:
            UnknownPool: there is none, or several.
        """
        records = self.all()
        matches = [r for r in records if r.name == text] or [
            r for r in records if len(text) >= _MIN_PREFIX and encode_id(r.pool_id).startswith(text.lower())
        ]
        if len(matches) == 1:
            return matches[0]
        known = ", ".join(f"{r.name} ({short_id(r.pool_id)})" for r in matches or records) or "none yet"
        problem = "several pools match" if matches else "there is no pool"
        raise UnknownPool(f"{problem} {text!r}; pools of this device: {known}")

    async def save(self, record: PoolRecord, membership: Membership) -> None:
        """Write a pool's record and statements, durably.

        Raises:
            StoreError: they cannot be written.
        """
        await self.save_statements(record, membership)
        await trio.to_thread.run_sync(write_json, record.directory / _RECORD, _encode(record))

    async def save_statements(self, record: PoolRecord, membership: Membership) -> None:
        """Write all statements of a pool, durably.

        Raises:
            StoreError: they cannot be written.
        """
        rows = [base64.b64encode(item).decode("ascii") for item in membership.statements()]
        await trio.to_thread.run_sync(write_json, record.directory / _STATEMENTS, rows)

    def membership(self, record: PoolRecord) -> Membership:
        """Return the membership that a pool's stored statements make.

        Raises:
            StoreError: the file is damaged.
        """
        membership = Membership(record.pool_id)
        path = record.directory / _STATEMENTS
        rows = read_json(path, [])
        try:
            for row in _list_of(rows, str):
                membership.add(decode_statement_untrusted(base64.b64decode(row)))
        except (WireError, ValueError) as exc:
            raise StoreError(f"{path} is damaged ({exc}); remove it and join again") from exc
        return membership


class StatementSaver:
    """Writes a joined pool's statements when they change, several changes at once."""

    def __init__(self, records: PoolRecords, record: PoolRecord, membership: Membership) -> None:
        self._records = records
        self._record = record
        self._membership = membership
        self._dirty = trio.Event()

    def changed(self) -> None:
        """Take note that there are new statements."""
        self._dirty.set()

    async def run(self) -> None:
        """Write whenever there is something new, until cancelled."""
        while True:
            await self._dirty.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write what is not written yet. A full disk is not fatal: the statements come again with the next join."""
        if not self._dirty.is_set():
            return
        self._dirty = trio.Event()
        try:
            await self._records.save_statements(self._record, self._membership)
        except StoreError as exc:
            logger.warning("the pool's statements were not stored: %s", exc)


def _encode(record: PoolRecord) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "name": record.name,
        "servers": [str(server) for server in record.servers],
        "hosted": attrs.asdict(record.hosted) if record.hosted else None,
        "display_name": record.display_name,
    }


def _decode(pool_id: PoolId, directory: Path, stored: Any) -> PoolRecord:
    try:
        match stored:
            case {"name": str() as name, "servers": list() as servers, "hosted": None | dict() as hosted}:
                return PoolRecord(
                    pool_id=pool_id,
                    name=_checked(name),
                    servers=tuple(parse_server_address_untrusted(text) for text in _list_of(servers, str)),
                    hosted=_decode_hosted(hosted) if hosted else None,
                    display_name=_decode_display_name(stored.get("display_name")),
                    directory=directory,
                )
        raise ValueError("a value is missing, or of another kind")
    except (ValueError, LocalError) as exc:
        raise StoreError(f"{directory / 'pool.json'} is damaged: {exc}; remove it and join again") from exc


def _decode_hosted(stored: dict[str, Any]) -> HostedServer:
    match stored:
        case {"listen_host": str() as listen_host, "port": int() as port, "public_host": str() as public_host}:
            if type(port) is int and 1 <= port <= _MAX_PORT:
                return HostedServer(listen_host=_checked(listen_host), port=port, public_host=_checked(public_host))
    raise ValueError("the hosted server has no address")


def _decode_display_name(stored: Any) -> str | None:
    if stored is not None and not isinstance(stored, str):
        raise ValueError("the display name is no text")
    return None if stored is None else _checked(stored)


def _list_of(items: Any, kind: type[T]) -> list[T]:
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        raise ValueError("a list holds something else")
    return items


def _checked(text: str) -> str:
    """Return `text` if it can be said to others: JSON may hold half a surrogate pair, which raises ValueError here."""
    text.encode()
    return text
