"""What a device reads back from its disk, and what its processes tell each other: the content of one file, anything.

Each reader lays the bytes where the file would be, in a directory of its own, opens the store as poolnet does, and goes
through all that is in it.
"""

import base64
import contextlib
import json
import tempfile
from array import array
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio
import trio.testing

from fuzz import samples
from poolnet.errors import StoreError, UnknownMessage
from poolnet.files.download_history import DownloadHistory, ended_info
from poolnet.identity.statements import encode_statement
from poolnet.identity.user import encode_add_device
from poolnet.ids import encode_id
from poolnet.limits import CHUNK_SIZE
from poolnet.message_db import open_message_db
from poolnet.pool.records import HostedServer, PoolRecord, PoolRecords
from poolnet.protocol.hash_tree import TreeShape, file_id_of, hash_chunk, hash_node
from poolnet.ranges import RangeSet
from poolnet.server.events import SaveJoined, SaveStatements
from poolnet.server.store import open_pool_store
from poolnet.storage.file_table import DownloadRecord, FileTable, LocalFile, PartRecord
from poolnet.storage.folder_index import FolderIndex
from poolnet.storage.folder_stamps import FolderStamps
from poolnet.storage.home import Home, Profile, open_home
from poolnet.storage.message_settings import Retention
from poolnet.storage.piece_store import PartFile, SourceChanged
from poolnet.storage.stream_spool import recover_streams
from poolnet.storage.tree_file import NodeCache, TreeFile
from poolnet.wire.claims import HIGHEST, LOWEST
from poolnet.wire.folder_list import EntryKind
from poolnet.wire.sync_frames import RosterEntry
from poolnet_cli.control import ControlServer, run_remotely
from poolnet_cli.lines import Input
from poolnet_cli.outcome import CommandFailed
from poolnet_cli.reporter import Reporter
from poolnet_cli.settings import read_settings, write_setting

_SIZE: Final = CHUNK_SIZE + 3
_SHAPE: Final = TreeShape(_SIZE)
_NODE: Final = hash_chunk(b"\x01" * CHUNK_SIZE) + hash_chunk(b"end")
_FILE_ID: Final = file_id_of(_SIZE, hash_node(_NODE))


@attrs.frozen(kw_only=True)
class Stored:
    """Something that is read back; as `decoders.Decoder`."""

    name: str
    number: int
    read: Callable[[bytes], object]
    samples: tuple[bytes, ...]
    errors: tuple[type[Exception], ...] = (StoreError,)


def _in_directory(read: Callable[[Path, bytes], object]) -> Callable[[bytes], object]:
    """Return `read` with an empty directory for each call."""

    def call(data: bytes) -> object:
        with tempfile.TemporaryDirectory(prefix="poolnet-fuzz-") as directory:
            return read(Path(directory), data)

    return call


def _asynchronously(read: Callable[[Path, bytes], Awaitable[object]]) -> Callable[[bytes], object]:
    return _in_directory(lambda directory, data: trio.run(read, directory, data))


# --- a home ---------------------------------------------------------------------------------------------------------


def _settings(home: Path, data: bytes) -> object:
    (home / "settings.json").write_bytes(data)
    found = read_settings(home)
    write_setting(home, "downloads", 3)
    return found


async def _profile(directory: Path, data: bytes) -> object:
    (directory / "profile.json").write_bytes(data)
    profile = await Home(directory, bytes(32), is_new=False).profile()
    await Home(directory, bytes(32), is_new=False).save_profile(profile)
    (profile.name or "").encode()
    return profile


async def _device_key(directory: Path, data: bytes) -> object:
    (directory / "device.key").write_bytes(data)
    async with open_home(directory) as home:
        assert home.seed == data
        return home.pool_ids()


def _pool_record(directory: Path, data: bytes) -> object:
    records, place = _records(directory)
    (place / "pool.json").write_bytes(data)
    record = records.get(samples.POOL)
    assert record is not None or data.strip() == b"null"
    for each in records.all():
        "".join([each.name, each.display_name or "", *map(str, each.servers)]).encode()
    return record


def _pool_statements(directory: Path, data: bytes) -> object:
    records, place = _records(directory)
    (place / "statements.json").write_bytes(data)
    record = PoolRecord(pool_id=samples.POOL, name="sailors", servers=(), directory=place)
    return records.membership(record).members()


def _records(directory: Path) -> tuple[PoolRecords, Path]:
    home = Home(directory, bytes(32), is_new=False)
    (directory / "pools").mkdir()
    return PoolRecords(home), home.pool_directory(samples.POOL)


def _made_in(make: Callable[[Path], Awaitable[None]], name: str) -> bytes:
    """Return what a store writes into that file."""
    with tempfile.TemporaryDirectory(prefix="poolnet-fuzz-") as directory:
        trio.run(make, Path(directory))
        return (Path(directory) / name).read_bytes()


async def _make_profile(directory: Path) -> None:
    profile = Profile(name="Anna", user=encode_add_device(samples.USER))
    await Home(directory, bytes(32), is_new=False).save_profile(profile)


async def _make_settings(directory: Path) -> None:
    for name, value in {"limit-up": 5000, "limit-down": 0, "downloads": 2, "cache": 2**30, "tcp": False}.items():
        write_setting(directory, name, value)


async def _make_pool(directory: Path) -> None:
    home = Home(directory, bytes(32), is_new=False)
    records = PoolRecords(home)
    place = home.pool_directory(samples.POOL)
    record = PoolRecord(
        pool_id=samples.POOL,
        name="sailors",
        servers=samples.SERVERS,
        hosted=HostedServer(listen_host="::", port=4433, public_host="sync.example.org"),
        display_name="Anna",
        directory=place,
    )
    await records.save(record, records.membership(record))


_POOL_JSON: Final = _made_in(_make_pool, f"pools/{encode_id(samples.POOL)}/pool.json")
_STATEMENTS_JSON: Final = json.dumps(
    [base64.b64encode(encode_statement(item)).decode() for item in samples.STATEMENTS]
).encode()


# --- files ----------------------------------------------------------------------------------------------------------


async def _file_table(name: str, directory: Path, data: bytes) -> object:
    (directory / name).write_bytes(data)
    table = FileTable(directory)
    queue = await table.load()
    for file in [*table.files.values(), *table.partials.values()]:
        _ask(partial(table.source(file).read_pieces, [0]))
    for part in table.parts.values():
        _ask(table.part(part).reopen)
    history = DownloadHistory()
    for order, record in enumerate(queue):
        history.add(order, record)
        ended_info(record).path.exists()
    await table.save_files()
    await table.save_queue(lambda: queue)
    return queue


def _ask(call: Callable[[], object]) -> None:
    with contextlib.suppress(StoreError, SourceChanged):
        call()


async def _make_file_table(directory: Path) -> None:
    table = FileTable(directory)
    table.files[_FILE_ID] = LocalFile(
        file_id=_FILE_ID, name="chart.pdf", size_bytes=_SIZE, path=directory / "chart.pdf", mtime_ns=5, is_own=True
    )
    table.partials[_FILE_ID] = LocalFile(
        file_id=_FILE_ID,
        name="logs",
        size_bytes=_SIZE,
        path=directory / "logs",
        mtime_ns=-5,
        is_own=False,
        kind="folder",
        list_id=_FILE_ID,
        body=b"body",
        only=("a", "b/c"),
    )
    table.parts[_FILE_ID] = PartRecord(
        file_id=_FILE_ID, name="logs", size_bytes=_SIZE, target=directory / "logs", kind="folder", list_id=_FILE_ID
    )
    queued = DownloadRecord(
        file_id=_FILE_ID,
        name="logs",
        size_bytes=_SIZE,
        target=directory / "logs",
        started_ms=2**40,
        only=("a",),
        priority=-3,
        is_paused=True,
        done_bytes=7,
        ended_ms=2**40,
        code="cancelled",
        reason="somebody cancelled it",
    )
    await table.save_files()
    await table.save_partials()
    await table.save_parts()
    await table.save_queue(lambda: [queued])


def _part_file(directory: Path, tree: bytes) -> PartFile:
    (directory / "tree").write_bytes(tree)
    (directory / "chart.part").write_bytes(b"\x01" * CHUNK_SIZE + b"end")
    tree_file = TreeFile(directory / "tree", _FILE_ID, _SHAPE, NodeCache())
    return PartFile(directory / "chart.part", tree_file, directory / "journal")


def _journal(directory: Path, data: bytes) -> object:
    part = _part_file(directory, _NODE)
    (directory / "journal").write_bytes(data)
    written = part.reopen()
    assert written is not None
    assert set(written) <= {1, 2}
    return part.verify(list(written))


def _tree(directory: Path, data: bytes) -> object:
    part = _part_file(directory, data)
    present = part.tree.present_nodes()
    assert not present or data.startswith(_NODE)
    return present, part.verify([1, 2]), part.find_holes(RangeSet.of([1, 2]))


def _stream_index(directory: Path, data: bytes) -> object:
    (directory / ".stream.spool").write_bytes(b"what was written")
    (directory / ".stream.index").write_bytes(data)
    found = recover_streams(directory)
    assert [path.parent for path in found] == [directory]
    assert [path.name for path in directory.iterdir()] == [found[0].name]
    return found


def _folder_times(directory: Path, data: bytes) -> object:
    (directory / "folder").mkdir()
    (directory / "folder" / "a").write_bytes(b"abc")
    (directory / "times").write_bytes(data)
    index = FolderIndex()
    index.append("a", 3, EntryKind.FILE)
    return FolderStamps(directory / "folder", lambda: index, directory / "times").look()


# --- processes ------------------------------------------------------------------------------------------------------


async def _control_request(_directory: Path, data: bytes) -> object:
    """One client of the process that holds a home; whatever it says, that process goes on."""
    seen: list[object] = []

    async def execute(command: str, params: dict[str, Any], reporter: Reporter, given: Input) -> None:
        command.encode(errors="replace")
        seen.append(params.get("pool"))
        seen.extend([line.upper() async for line in given.lines])
        seen.extend([bytes(piece) async for piece in given.data])
        await reporter.note("done")

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ControlServer(execute).serve_client, theirs)
        await ours.send_all(data)
        await ours.send_eof()
        async for _ in ours:
            pass
    return seen


async def _control_answer(_directory: Path, data: bytes) -> object:
    """What the process that holds the home answers."""
    ours, theirs = trio.testing.memory_stream_pair()
    shown = _Shown()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_answer, theirs, data)
        with contextlib.suppress(CommandFailed):
            await run_remotely(ours, "say", {}, shown, None)
        nursery.cancel_scope.cancel()
    return shown.count


async def _answer(stream: trio.StapledStream, data: bytes) -> None:
    async with stream:
        await stream.send_all(data)


class _Shown:
    """A reporter that counts."""

    def __init__(self) -> None:
        self.count = 0

    async def record(self, _record: object) -> None:
        self.count += 1

    progress = note = data = record


# --- databases ------------------------------------------------------------------------------------------------------


async def _history(directory: Path, data: bytes) -> object:
    (directory / "messages.db").write_bytes(data)
    async with open_message_db(directory / "messages.db", samples.POOL) as history:
        found = await history.latest(100)
        with contextlib.suppress(UnknownMessage):
            await history.around(samples.MESSAGES[0].msg_id, 3)
        await history.search("hello")
        await history.sessions()
        await history.with_standing_keys(lambda keys: keys.summary(LOWEST, HIGHEST))
        await history.count()
        await history.last_hlc()
        await history.summary((0, b""), (2**63, b""))
        await history.find(encode_id(samples.MESSAGES[1].msg_id)[:5])
        await history.known_from()
        await history.floor()
        await history.recheck_retractions()
        await history.append(samples.MESSAGES)
        await history.expire(2**42)
        return found


async def _make_history(directory: Path) -> None:
    async with open_message_db(directory / "messages.db", samples.POOL) as history:
        await history.append(samples.MESSAGES)
        await history.set_known_from((5, b"ab"))
        await history.set_retention(Retention(max_age_s=10.0**9, max_count=1000))


async def _server_store(directory: Path, data: bytes) -> object:
    (directory / "server.db").write_bytes(data)
    async with open_pool_store(directory / "server.db") as store:
        stored = await store.load(samples.POOL)
        await store.save(_EFFECTS)
        return stored


async def _make_server_store(directory: Path) -> None:
    async with open_pool_store(directory / "server.db") as store:
        await store.save(_EFFECTS)


_EFFECTS: Final = (
    SaveStatements(samples.POOL, tuple((item.statement_id, encode_statement(item)) for item in samples.STATEMENTS)),
    SaveJoined(samples.POOL, 7, RosterEntry(node=samples.KEY.device_id, places=(1, 2, 3))),
)
_MADE: Final = {
    name: _made_in(_make_file_table, name) for name in ("offers.json", "partials.json", "downloads.json", "queue.json")
}
_REQUEST: Final = (
    b'{"command": "say", "params": {"pool": "sailors"}}\n{"input": "hello"}\n{"data": "aGVsbG8="}\n{"input": null}\n'
)
_ANSWER: Final = (
    b'{"record": {"a": 1}}\n{"progress": {}}\n{"note": "x"}\n{"data": "aGVsbG8="}\n'
    b'{"exit": 1, "error": {"code": "usage", "message": "no"}}\n'
)

STORED: Final[tuple[Stored, ...]] = (
    Stored(
        name="settings",
        number=40,
        read=_in_directory(_settings),
        samples=(_made_in(_make_settings, "settings.json"),),
    ),
    Stored(
        name="profile", number=41, read=_asynchronously(_profile), samples=(_made_in(_make_profile, "profile.json"),)
    ),
    Stored(name="device key", number=42, read=_asynchronously(_device_key), samples=(bytes(32),)),
    Stored(name="pool record", number=43, read=_in_directory(_pool_record), samples=(_POOL_JSON,)),
    Stored(name="pool statements", number=44, read=_in_directory(_pool_statements), samples=(_STATEMENTS_JSON,)),
    *(
        Stored(name=name, number=number, read=_asynchronously(partial(_file_table, name)), samples=(content,))
        for number, (name, content) in enumerate(_MADE.items(), start=45)
    ),
    Stored(name="journal", number=49, read=_in_directory(_journal), samples=(array("I", [1, 2, 2, 3]).tobytes(),)),
    Stored(name="tree", number=50, read=_in_directory(_tree), samples=(_NODE,)),
    Stored(
        name="stream index",
        number=51,
        read=_in_directory(_stream_index),
        samples=((5).to_bytes(2, "big") + b"radio".ljust(254, b"\0"),),
    ),
    Stored(name="folder times", number=52, read=_in_directory(_folder_times), samples=(bytes(8),)),
    Stored(name="control request", number=53, read=_asynchronously(_control_request), samples=(_REQUEST,), errors=()),
    Stored(name="control answer", number=54, read=_asynchronously(_control_answer), samples=(_ANSWER,), errors=()),
    Stored(
        name="history", number=55, read=_asynchronously(_history), samples=(_made_in(_make_history, "messages.db"),)
    ),
    Stored(
        name="server store",
        number=56,
        read=_asynchronously(_server_store),
        samples=(_made_in(_make_server_store, "server.db"),),
    ),
)
