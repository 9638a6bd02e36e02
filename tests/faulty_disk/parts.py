"""A download on its way, of a file and of a folder: its part, its tree and its journal, until it has its name."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from faulty_disk.subject import Step, Subject
from poolnet.files.part_paths import put_part_aside
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import TreeBuilder, TreeShape, hash_chunk
from poolnet.ranges import RangeSet
from poolnet.storage.durable import remove_unfinished
from poolnet.storage.files import sync_name
from poolnet.storage.folder_copy import FolderCopier
from poolnet.storage.folder_index import FolderIndex
from poolnet.storage.folder_layout import FolderLayout, Selection
from poolnet.storage.piece_store import PartFile
from poolnet.storage.tree_file import NodeCache, TreeFile
from poolnet.wire.folder_list import EntryKind

_CONTENT: Final = random.Random(1).randbytes(5 * CHUNK_SIZE + 1000)
_LIST_ID: Final = FileId(bytes(range(32)))

#: What is in the folder. Files share chunks, and one of those that are not wanted shares them with others.
_FILES: Final = {
    "a/here": CHUNK_SIZE + 10,
    "a/small": 100,
    "b/empty": 0,
    "b/unwanted": CHUNK_SIZE,
    "c/large": 2 * CHUNK_SIZE + 77,
    "c/tool": 5000,
}
_DIRECTORY: Final = "d/nothing"


@attrs.frozen
class Wanted:
    """What is downloaded: its id, its pieces (one tree node, then the chunks), and what it looks like at its place."""

    file_id: FileId
    pieces: list[bytes]
    layout: Callable[[Path], FolderLayout | None]
    is_whole: Callable[[Path], bool]

    @property
    def shape(self) -> TreeShape:
        """How many pieces there are."""
        return TreeShape(sum(map(len, self.pieces[1:])))


def _wanted(content: bytes, layout: Callable[[Path], FolderLayout | None], is_whole: Callable[[Path], bool]) -> Wanted:
    builder, nodes = TreeBuilder(), []
    chunks = [content[start : start + CHUNK_SIZE] for start in range(0, len(content), CHUNK_SIZE)]
    for chunk in chunks:
        nodes += builder.add(hash_chunk(chunk))
    file_id, rest = builder.finish(len(content))
    (node,) = nodes + rest
    return Wanted(file_id, [node.data, *chunks], layout, is_whole)


def _index() -> FolderIndex:
    index = FolderIndex()
    for path, size in _FILES.items():
        index.append(path, size, EntryKind.EXECUTABLE if path == "c/tool" else EntryKind.FILE)
    index.append(_DIRECTORY, 0, EntryKind.EMPTY_DIRECTORY)
    return index


def _content_of(path: str) -> bytes:
    return random.Random(path).randbytes(_FILES[path])


def _layout(directory: Path) -> FolderLayout:
    selected = bytearray(path != "b/unwanted" for path in [*_FILES, _DIRECTORY])
    return FolderLayout(_index, _LIST_ID, Selection(selected=selected, spill=directory / "f.spill"))


def _is_whole_folder(path: Path) -> bool:
    found = {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}
    expected = {name: _content_of(name) for name in _FILES if name != "b/unwanted"}
    return found == expected and (path / _DIRECTORY).is_dir()


_FILE: Final = _wanted(_CONTENT, lambda _directory: None, lambda path: path.read_bytes() == _CONTENT)
_FOLDER: Final = _wanted(b"".join(map(_content_of, _FILES)) + _LIST_ID, _layout, _is_whole_folder)


@attrs.define
class _Download:
    """A part, used as `Downloads` does it."""

    wanted: Wanted
    part: PartFile
    target: Path
    held: set[int]

    async def write(self, pieces: Sequence[int]) -> None:
        if not self.target.exists():
            assert all(self.part.write_pieces([(piece, self.wanted.pieces[piece]) for piece in pieces]))
            self.held |= set(pieces)

    async def copy(self) -> None:
        """Copy a file of the folder that is here already."""
        if self.target.exists():
            return
        source = self.target.parent.with_name("here")
        if not source.exists():
            source.write_bytes(_content_of("a/here"))
        assert isinstance(self.part.layout, FolderLayout)
        copier = FolderCopier(self.part.path, self.part.layout, [(0, source)])
        while copier.step():
            pass
        genuine = RangeSet.of(self.part.verify(list(copier.chunks())))
        self.part.note_written(genuine)
        self.held |= set(genuine)

    async def write_rest(self) -> None:
        await self.write([piece for piece in range(len(self.wanted.pieces)) if piece not in self.held])

    async def sync(self) -> None:
        if not self.target.exists():
            self.part.sync()

    async def publish(self) -> None:
        if self.target.exists():
            sync_name(self.target)
            self.part.discard()
        else:
            self.part.sync()
            self.part.publish(self.target)
        self.held = set()


def _opener(wanted: Wanted) -> Callable[[Path], AbstractAsyncContextManager[_Download]]:
    @asynccontextmanager
    async def open_download(directory: Path) -> AsyncIterator[_Download]:
        remove_unfinished(directory)
        tree = TreeFile(directory / "f.tree", wanted.file_id, wanted.shape, NodeCache())
        part = PartFile(directory / "f.part", tree, directory / "f.journal", wanted.layout(directory))
        target, held = directory / "f", set[int]()
        if target.exists():
            part.discard()
        else:
            written = part.reopen()
            if written is None:
                put_part_aside(part.path)
                part.create()
            else:
                held = {0} if tree.node(0) is not None else set()
                chunks = RangeSet.of(part.verify(list(written)))
                part.begin_journal(chunks)
                held |= set(chunks)
        yield _Download(wanted, part, target, held)

    return open_download


async def _observe(download: _Download) -> Any:
    if download.target.exists():
        assert download.wanted.is_whole(download.target)
        assert not download.part.path.exists()
        return "complete"
    read = download.part.read_pieces(sorted(download.held))
    assert read == [download.wanted.pieces[piece] for piece in sorted(download.held)]
    return sorted(download.held)


def _may_be(seen: Any, states: Sequence[Any]) -> bool:
    """Any pieces may be there that were written, but those must that were there for sure."""
    if "complete" in (seen, states[0]):
        return bool(seen in states)
    most = next((state for state in reversed(states) if state != "complete"), [])
    return set(states[0]) <= set(seen) <= set(most)


PART: Final = Subject(
    open=_opener(_FILE),
    steps=[
        Step("tree", lambda download: download.write([0]), is_durable=False),
        Step("some chunks", lambda download: download.write([2, 3]), is_durable=False),
        Step("another", lambda download: download.write([5]), is_durable=False),
        Step("more", lambda download: download.write([1, 6]), is_durable=False),
        Step("all", lambda download: download.write_rest(), is_durable=False),
        Step("sync", lambda download: download.sync(), is_durable=False),  # the journal and the tree are not
        Step("publish", lambda download: download.publish()),
    ],
    observe=_observe,
    belongs=["f", "f.tree", "f.part.damaged"],
    unfinished=["f.part", "f.journal"],
    may_be=_may_be,
)

FOLDER: Final = Subject(
    open=_opener(_FOLDER),
    steps=[
        Step("tree", lambda download: download.write([0]), is_durable=False),
        Step("some chunks", lambda download: download.write([3, 5]), is_durable=False),
        Step("copy", lambda download: download.copy(), is_durable=False),
        Step("all", lambda download: download.write_rest(), is_durable=False),
        Step("sync", lambda download: download.sync(), is_durable=False),
        Step("publish", lambda download: download.publish()),
    ],
    observe=_observe,
    belongs=["f/*", "f.tree"],
    unfinished=["f.part/*", "f.journal", "f.spill"],
    may_be=_may_be,
)
