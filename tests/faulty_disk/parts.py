"""A download on its way: its part file, its tree and its journal, until it has its name."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from faulty_disk.subject import Step, Subject
from poolnet.files.part_paths import put_part_aside
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import TreeBuilder, TreeShape, hash_chunk
from poolnet.storage.files import sync_name
from poolnet.storage.piece_store import PartFile
from poolnet.storage.tree_file import NodeCache, TreeFile

_CONTENT: Final = random.Random(1).randbytes(5 * CHUNK_SIZE + 1000)
_SHAPE: Final = TreeShape(len(_CONTENT))


def _build() -> tuple[Any, list[bytes]]:
    """Return the file's id and its pieces: the tree node, and the chunks."""
    builder, nodes = TreeBuilder(), []
    chunks = [_CONTENT[start : start + CHUNK_SIZE] for start in range(0, len(_CONTENT), CHUNK_SIZE)]
    for chunk in chunks:
        nodes += builder.add(hash_chunk(chunk))
    file_id, rest = builder.finish(len(_CONTENT))
    assert len(nodes + rest) == _SHAPE.node_count == 1
    return file_id, [(nodes + rest)[0].data, *chunks]


_FILE_ID, _PIECES = _build()


@attrs.define
class _Download:
    """A part file, used as `Downloads` does it."""

    part: PartFile
    target: Path
    held: set[int]

    async def write(self, pieces: Sequence[int]) -> None:
        assert all(self.part.write_pieces([(piece, _PIECES[piece]) for piece in pieces]))
        self.held |= set(pieces)

    async def sync(self) -> None:
        self.part.sync()

    async def publish(self) -> None:
        if self.target.exists():
            sync_name(self.target)
            self.part.discard()
        else:
            self.part.sync()
            self.part.publish(self.target)
        self.held = set()


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[_Download]:
    tree = TreeFile(directory / "f.tree", _FILE_ID, _SHAPE, NodeCache())
    part, target = PartFile(directory / "f.part", tree, directory / "f.journal"), directory / "f"
    held: set[int] = set()
    if target.exists():
        part.discard()
    else:
        written = part.reopen()
        if written is None:
            put_part_aside(part.path)
            part.create()
        else:
            held = {0} if tree.node(0) is not None else set()
            held |= set(part.verify(list(written)))
    yield _Download(part, target, held)


async def _observe(download: _Download) -> Any:
    if download.target.exists():
        assert download.target.read_bytes() == _CONTENT
        assert not download.part.path.exists()
        return "complete"
    read = download.part.read_pieces(sorted(download.held))
    assert read == [_PIECES[piece] for piece in sorted(download.held)]
    return sorted(download.held)


def _may_be(seen: Any, states: Sequence[Any]) -> bool:
    """Any pieces may be there that were written, but those must that were there for sure."""
    if "complete" in (seen, states[0]):
        return bool(seen in states)
    most = next((state for state in reversed(states) if state != "complete"), [])
    return set(states[0]) <= set(seen) <= set(most)


PART: Final = Subject(
    open=_open,
    steps=[
        Step("tree", lambda download: download.write([0]), is_durable=False),
        Step("some chunks", lambda download: download.write([2, 3]), is_durable=False),
        Step("another", lambda download: download.write([5]), is_durable=False),
        Step("more", lambda download: download.write([1, 6]), is_durable=False),
        Step("all", lambda download: download.write([4]), is_durable=False),
        Step("sync", lambda download: download.sync(), is_durable=False),  # the journal and the tree are not
        Step("publish", lambda download: download.publish()),
    ],
    observe=_observe,
    belongs=["f", "f.part", "f.tree", "f.journal", "f.part.damaged"],
    may_be=_may_be,
)
