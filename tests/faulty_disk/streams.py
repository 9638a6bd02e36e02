"""Streams that this device publishes: their pieces, the file that one becomes, and what is kept of one broken off."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from faulty_disk.subject import Step, Subject
from poolnet.errors import StoreError
from poolnet.identity.keys import DeviceKey
from poolnet.ids import PoolId
from poolnet.limits import MAX_STREAM_PIECE_SIZE
from poolnet.protocol.stream_pieces import NONCE_SIZE, StreamSigner
from poolnet.storage.durable import make_private_directory
from poolnet.storage.file_table import FileTable, LocalFile
from poolnet.storage.stream_spool import StreamSpool, recover_streams

_KEY, _POOL = DeviceKey.from_seed(bytes(32)), PoolId(b"p" * 32)
_PIECES: Final = [hashlib.shake_128(bytes([number])).digest(MAX_STREAM_PIECE_SIZE - number) for number in range(3)]
_CONTENT: Final = b"".join(_PIECES)


@attrs.frozen
class _Streams:
    """A table, and a directory of streams, used as `Streams` does it."""

    table: FileTable
    directory: Path

    def begin(self, name: str) -> StreamSpool:
        return StreamSpool(self.directory, name, StreamSigner(_KEY, _POOL, secrets.token_bytes(NONCE_SIZE)))

    async def publish(self) -> None:
        """Publish a stream to its end, and list what it became."""
        spool = self.begin("talk.ogg")
        try:
            for piece in _PIECES:
                spool.append([piece])
            whole = spool.finish(self.table.new_tree_path(), self.table.tree_path)
        except StoreError:
            spool.abort()
            raise
        self.table.files[whole.file_id] = LocalFile(
            file_id=whole.file_id,
            name=whole.name,
            size_bytes=whole.size_bytes,
            path=whole.path,
            mtime_ns=whole.mtime_ns,
            is_own=True,
        )
        await self.table.save_files()
        spool.forget()

    async def break_off(self) -> None:
        """Publish the first pieces of a stream only."""
        spool = self.begin("radio.ogg")
        try:
            spool.append(_PIECES[:2])
        finally:
            spool.abort()
        spool.forget()


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[_Streams]:
    table = FileTable(directory / "files")
    await table.load()
    streams = _Streams(table, directory / "files" / "streams")
    make_private_directory(streams.directory)
    recover_streams(streams.directory)
    yield streams


async def _observe(streams: _Streams) -> Any:
    """Return of each file how much of what was sent is in it; one that is listed has a tree and is whole."""
    for file in streams.table.files.values():
        tree = streams.table.tree(file.file_id, file.size_bytes)
        assert tree.present_nodes() == list(range(tree.shape.node_count))
        assert file.path.read_bytes() == _CONTENT
    sizes = [_genuine_size(path.read_bytes()) for path in sorted(streams.directory.iterdir()) if path.suffix == ".ogg"]
    return [len(streams.table.files), sizes]


def _genuine_size(content: bytes) -> int:
    return len(content) if _CONTENT.startswith(content) else -1


def _may_be(seen: Any, states: Sequence[Any]) -> bool:
    """What was finished is listed; beside that may be what is left of tries that a crash ended."""
    listed = {state[0] for state in states}
    return seen[0] in listed and any(_contains(seen[1], state[1]) for state in states if state[0] == seen[0])


def _contains(sizes: list[int], others: list[int]) -> bool:
    return all(sizes.count(size) >= others.count(size) for size in others)


STREAM: Final = Subject(
    open=_open,
    steps=[
        Step("publish", lambda streams: streams.publish()),
        Step("break off", lambda streams: streams.break_off()),
    ],
    observe=_observe,
    belongs=["files/offers.json", "files/streams/[!.]*", "files/trees/*.tree"],
    may_be=_may_be,
)
