"""Folders: prepared on one device, laid out, filled and published on another."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest
import trio

from poolnet.errors import OutputExists, StoreError, UnknownFile
from poolnet.files.file_end import FileEnd
from poolnet.files.folders import Folders, PreparedFolder
from poolnet.files.list_proofs import ListProofs
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MIB
from poolnet.ranges import RangeSet
from poolnet.storage.file_table import FileTable, LocalFile, PartRecord
from poolnet.storage.folder_layout import FolderLayout
from poolnet.storage.piece_store import FileSource, PartFile, PiecesDamaged, SourceChanged
from poolnet.wire.folder_list import FOLDER_TRAILER_SIZE


class Device:
    """The files of one device. Made by `open_device`."""

    def __init__(self, home: Path, peers: Sequence["Device"]) -> None:
        self.home = home
        self.table = FileTable(home)
        proofs = ListProofs(self.table, self._fetch_end, lambda *_: True)
        self.folders = Folders(home / "folders", self.table, self._fetch_list, proofs)
        self.lists_fetched = 0
        self._peers = peers

    async def offer(self, path: Path, **options: object) -> PreparedFolder:
        prepared = await self.folders.prepare(path, path.name, **options)  # type: ignore[arg-type]
        for file in (prepared.list_file, prepared.content):
            self.table.files[file.file_id] = file
        return prepared

    def source(self, prepared: PreparedFolder) -> FileSource:
        source = self.folders.source(self.table.files[prepared.content.file_id])
        assert isinstance(source, FileSource)
        return source

    async def open_part(self, record: PartRecord) -> PartFile:
        part = await self.folders.open_part(await self.folders.prepare_part(record))
        assert isinstance(part, PartFile)
        return part

    async def fetch(self, prepared: PreparedFolder, source: FileSource, target: Path) -> LocalFile:
        """Download all of a folder, and list it."""
        part = await self.open_part(record_of(prepared, target))
        part.create()
        write_all(part, source)
        part.sync()
        part.publish(target)
        complete = attrs.evolve(prepared.content, path=target, is_own=False)
        self.table.files[complete.file_id] = complete
        return complete

    async def _fetch_list(self, list_id: FileId, path: Path) -> None:
        self.lists_fetched += 1
        listed = next(peer.table.files[list_id] for peer in self._peers if list_id in peer.table.files)
        copy_file(listed.path, path)
        self.table.files[list_id] = attrs.evolve(listed, path=path, is_own=False, kind="file")

    async def _fetch_end(self, file_id: FileId) -> FileEnd | None:
        peer, file = next((peer, peer.table.files[file_id]) for peer in self._peers if file_id in peer.table.files)
        end = FileEnd(file_id, file.size_bytes, FOLDER_TRAILER_SIZE)
        end.write_pieces(list(zip(end.needed, peer.folders.source(file).read_pieces(end.needed), strict=True)))
        return end


async def open_device(home: Path, *peers: Device) -> Device:
    device = Device(home, peers)
    await device.table.load()
    await device.folders.tidy_up()
    return device


def copy_file(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def record_of(prepared: PreparedFolder, target: Path, *only: str) -> PartRecord:
    body = prepared.body
    return PartRecord(
        file_id=body.file_id,
        name=body.name,
        size_bytes=body.size,
        target=target,
        kind="folder",
        list_id=body.list_id,
        only=only,
    )


def write_all(part: PartFile, source: FileSource, pieces: Sequence[int] | None = None) -> None:
    """Write the tree, and then these chunks (all) in any order."""
    nodes = list(range(part.shape.node_count))
    chunks = list(range(part.shape.node_count, part.shape.piece_count)) if pieces is None else list(pieces)
    random.Random(1).shuffle(chunks)
    for batch in (nodes, chunks):
        assert all(part.write_pieces(list(zip(batch, source.read_pieces(batch), strict=True))))


def make_folder(root: Path) -> Path:
    """Make a folder with files smaller and larger than a chunk, empty ones, and one that can be executed."""
    contents = {
        "a/small": b"small",
        "a/large": random.Random(2).randbytes(3 * CHUNK_SIZE + 7),
        "b/empty": b"",
        "b/run.sh": b"#!/bin/sh\n",
        "c/chunk": random.Random(3).randbytes(CHUNK_SIZE),
        "c/zeros": bytes(2 * CHUNK_SIZE + 5),
        "last": random.Random(4).randbytes(2 * CHUNK_SIZE),
    }
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "b/run.sh").chmod(0o755)
    (root / "d/nothing").mkdir(parents=True)
    return root


def look(root: Path) -> dict[str, bytes | bool | None]:
    """Return what is in a folder: contents, and what can be executed."""
    found: dict[str, bytes | bool | None] = {}
    for path in root.rglob("*"):
        relative = str(path.relative_to(root))
        found[relative] = None if path.is_dir() else path.read_bytes()
        found[f"{relative} runs"] = path.is_file() and os.access(path, os.X_OK) and path.stat().st_mode & 0o100 != 0
    return found


@pytest.fixture
async def sender(tmp_path: Path) -> Device:
    return await open_device(tmp_path / "sender")


@pytest.fixture
async def receiver(tmp_path: Path, sender: Device) -> Device:
    return await open_device(tmp_path / "receiver", sender)


async def test_a_folder_arrives_as_it_is(tmp_path: Path, sender: Device, receiver: Device) -> None:
    root = make_folder(tmp_path / "root")
    prepared = await sender.offer(root)
    assert prepared.body.file_count == 7
    complete = await receiver.fetch(prepared, sender.source(prepared), tmp_path / "copy")
    assert look(tmp_path / "copy") == look(root)
    assert receiver.table.files[prepared.body.list_id].kind == "list"
    pieces = range(sender.source(prepared).shape.piece_count)
    served_on = receiver.folders.source(complete)
    assert served_on.read_pieces(pieces) == sender.source(prepared).read_pieces(pieces)
    assert os.listdir(tmp_path / "receiver" / "trees") == [f"{receiver.table.tree_path(complete.file_id).name}"]
    assert (tmp_path / "copy/c/zeros").stat().st_blocks * 512 < CHUNK_SIZE + 64 * 1024  # its edges share chunks


async def test_a_folder_without_files_arrives_as_well(tmp_path: Path, sender: Device, receiver: Device) -> None:
    (tmp_path / "root/a").mkdir(parents=True)
    prepared = await sender.offer(tmp_path / "root")
    await receiver.fetch(prepared, sender.source(prepared), tmp_path / "copy")
    assert look(tmp_path / "copy") == {"a": None, "a runs": False}


async def test_folders_of_the_same_bytes_under_other_names_are_not_the_same(tmp_path: Path, sender: Device) -> None:
    for root, name in (("one", "a"), ("two", "b")):
        (tmp_path / root).mkdir()
        (tmp_path / root / name).write_bytes(b"same")
    one, two = await sender.offer(tmp_path / "one"), await sender.offer(tmp_path / "two")
    assert len({one.body.file_id, two.body.file_id, one.body.list_id, two.body.list_id}) == 4


async def test_names_that_could_do_harm_are_made_safe(tmp_path: Path, sender: Device, receiver: Device) -> None:
    (tmp_path / "root").mkdir()
    for name in ("CON", "a:b", "a_b", "x\u202etxt", "same", "SAME"):
        (tmp_path / "root" / name).write_text(name)
    prepared = await sender.offer(tmp_path / "root")
    complete = await receiver.fetch(prepared, sender.source(prepared), tmp_path / "copy")
    found = {path.name: path.read_text() for path in (tmp_path / "copy").iterdir()}
    assert found == {
        "_CON": "CON",
        "a_b": "a:b",
        "a_b (2)": "a_b",
        "xtxt": "x\u202etxt",
        "SAME": "SAME",
        "same (2)": "same",
    }
    assert receiver.folders.source(complete).read_pieces([0]) == sender.source(prepared).read_pieces([0])
    assert await receiver.folders.find_change(complete) is None


async def test_an_interrupted_download_goes_on_from_what_is_there(
    tmp_path: Path, sender: Device, receiver: Device
) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    source, record = sender.source(prepared), record_of(prepared, tmp_path / "copy")
    part = await receiver.open_part(record)
    assert part.reopen() is None
    part.create()
    first = part.shape.node_count
    write_all(part, source, [first, first + 3, first + 6])
    assert part.read_pieces([first + 3]) == source.read_pieces([first + 3])
    again = await receiver.open_part(record)
    written = again.reopen()
    assert written is not None
    (record.part_path / "a/large").unlink()
    assert again.verify(list(written)) == [first + 6]
    with pytest.raises(PiecesDamaged):
        again.read_pieces([first])
    with pytest.raises(OutputExists):
        again.create()
    write_all(again, source)
    again.sync()
    again.publish(record.target)
    assert look(record.target) == look(tmp_path / "root")
    assert again.read_pieces([first]) == source.read_pieces([first])
    assert receiver.lists_fetched == 1


async def test_only_what_is_wanted_is_fetched_and_made(tmp_path: Path, sender: Device, receiver: Device) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    record = record_of(prepared, tmp_path / "copy", "b", "c/chunk")
    part = await receiver.open_part(record)
    wanted = receiver.folders.wanted(record, part)
    assert wanted is not None
    assert sum(stop - start for start, stop in wanted) == 2
    part.create()
    chunks = list(RangeSet(wanted))
    write_all(part, sender.source(prepared), chunks)
    again = await receiver.open_part(record)
    assert again.reopen() == RangeSet(wanted)
    assert again.read_pieces(chunks) == sender.source(prepared).read_pieces(chunks)
    again.sync()
    again.publish(record.target)
    expected = {path: content for path, content in look(tmp_path / "root").items() if path[0] == "b" or path[0] == "c"}
    assert look(record.target) == {path: content for path, content in expected.items() if "zeros" not in path}
    assert not list((tmp_path / "receiver/trees").glob("*.spill"))
    assert not list((tmp_path / "receiver/trees").glob("*.journal"))
    with pytest.raises(UnknownFile, match="'e'"):
        await receiver.open_part(record_of(prepared, tmp_path / "other", "e"))


async def test_what_is_not_wanted_any_more_is_not_published(tmp_path: Path, sender: Device, receiver: Device) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    before = await receiver.open_part(record_of(prepared, tmp_path / "copy"))
    before.create()
    write_all(before, sender.source(prepared), [before.shape.node_count])
    part = await receiver.open_part(record_of(prepared, tmp_path / "copy", "last"))
    write_all(part, sender.source(prepared))
    part.sync()
    part.publish(tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").rglob("*") if path.is_file()] == ["last"]


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"edited")


def cut(path: Path) -> None:
    os.truncate(path, 9)


@pytest.mark.parametrize("change", [edit, Path.unlink, replace_by_pipe, cut])
async def test_a_file_that_changed_is_neither_served_nor_overlooked(
    tmp_path: Path, sender: Device, change: Callable[[Path], None]
) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    source = sender.source(prepared)
    change(tmp_path / "root/a/large")
    with pytest.raises(SourceChanged, match="root"):
        source.read_pieces([source.shape.node_count])
    assert len(source.read_pieces([source.shape.piece_count - 1])) == 1
    reason = await sender.folders.find_change(prepared.content)
    assert reason is not None
    assert "root/a/large" in reason


async def test_a_folder_that_is_gone_is_noticed(tmp_path: Path, sender: Device) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    assert await sender.folders.find_change(prepared.content) is None
    (tmp_path / "root").rename(tmp_path / "elsewhere")
    assert "not there any more" in (await sender.folders.find_change(prepared.content) or "")
    with pytest.raises(SourceChanged, match="not there any more"):
        sender.source(prepared).read_pieces([1])


async def test_a_file_that_was_written_to_and_is_the_same_is_hashed_once(tmp_path: Path, sender: Device) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    os.utime(tmp_path / "root/last", ns=(5, 5))
    assert await sender.folders.find_change(prepared.content) is None
    again = Device(sender.home, ())
    again.table.files = dict(sender.table.files)
    (stamps,) = (sender.home / "folders").glob("*.stamps")
    kept = stamps.stat().st_mtime_ns
    assert await again.folders.find_change(prepared.content) is None
    assert stamps.stat().st_mtime_ns == kept


async def test_files_that_are_added_do_not_end_an_offer(tmp_path: Path, sender: Device) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    (tmp_path / "root/new").touch()
    assert await sender.folders.find_change(prepared.content) is None
    assert (await sender.offer(tmp_path / "root")).body.file_id != prepared.body.file_id


async def test_of_a_folder_with_many_files_a_part_is_looked_at_each_time(tmp_path: Path, sender: Device) -> None:
    (tmp_path / "root").mkdir()
    for number in range(4100):
        (tmp_path / "root" / f"{number:04}").touch()
    prepared = await sender.offer(tmp_path / "root")
    (tmp_path / "root/4050").unlink()
    assert await sender.folders.find_change(prepared.content) is None
    assert await sender.folders.find_change(prepared.content) is not None


async def test_an_older_version_of_a_folder_leaves_little_to_fetch(
    tmp_path: Path, sender: Device, receiver: Device
) -> None:
    root = make_folder(tmp_path / "root")
    first = await sender.offer(root)
    await receiver.fetch(first, sender.source(first), tmp_path / "old")
    (root / "0 new").write_bytes(random.Random(9).randbytes(1000))
    (root / "last").unlink()
    second = await sender.offer(root)
    record = record_of(second, tmp_path / "copy")
    part, stored = await receiver.open_part(record), RangeSet()
    part.create()
    missing = RangeSet([(part.shape.node_count, part.shape.piece_count)])
    write_all(part, sender.source(second), [])
    await receiver.folders.copy_here(record, part, missing, stored.update)
    assert missing.difference(stored) == RangeSet.of([part.shape.node_count])
    again = await receiver.open_part(record)
    assert again.reopen() == stored
    write_all(again, sender.source(second), list(missing.difference(stored)))
    again.sync()
    again.publish(record.target)
    assert look(record.target) == look(root)


async def test_a_copy_that_is_not_what_the_list_says_is_not_believed(
    tmp_path: Path, sender: Device, receiver: Device
) -> None:
    root = make_folder(tmp_path / "root")
    first = await sender.offer(root)
    await receiver.fetch(first, sender.source(first), tmp_path / "old")
    edit(tmp_path / "old/last")
    (tmp_path / "old/a/large").unlink()
    (root / "a/small").write_bytes(b"other")
    second = await sender.offer(root)
    record = record_of(second, tmp_path / "copy")
    part, stored = await receiver.open_part(record), RangeSet()
    part.create()
    write_all(part, sender.source(second), [])
    missing = RangeSet([(part.shape.node_count, part.shape.piece_count)])
    await receiver.folders.copy_here(record, part, missing, stored.update)
    assert stored
    for piece in missing.difference(stored):
        part.write_pieces([(piece, sender.source(second).read_pieces([piece])[0])])
    part.sync()
    part.publish(record.target)
    assert look(record.target) == look(root)


async def test_single_files_are_copied_into_a_folder(tmp_path: Path, sender: Device, receiver: Device) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/film").write_bytes(random.Random(1).randbytes(3 * MIB))
    prepared = await sender.offer(tmp_path / "root")
    film = tmp_path / "film here"
    film.write_bytes((tmp_path / "root/film").read_bytes())
    file_id, mtime_ns = await receiver.folders._hash(film)
    receiver.table.files[file_id] = LocalFile(
        file_id=file_id, name="film", size_bytes=3 * MIB, path=film, mtime_ns=mtime_ns, is_own=True
    )
    record = record_of(prepared, tmp_path / "copy")
    part, stored = await receiver.open_part(record), RangeSet()
    part.create()
    write_all(part, sender.source(prepared), [])
    missing = RangeSet([(part.shape.node_count, part.shape.piece_count)])
    await receiver.folders.copy_here(record, part, missing, stored.update)
    assert stored == missing


async def test_content_of_another_list_is_refused(tmp_path: Path, sender: Device, receiver: Device) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a").write_bytes(b"same")
    one = await sender.offer(tmp_path / "root")
    (tmp_path / "root/a").rename(tmp_path / "root/b")
    other = await sender.offer(tmp_path / "root")
    (tmp_path / "root/b").rename(tmp_path / "root/a")
    record = attrs.evolve(record_of(one, tmp_path / "copy"), list_id=other.body.list_id)
    assert await receiver.folders.prepare_part(record) == record_of(one, tmp_path / "copy")
    await receiver.folders.entries(other.body.list_id, record.size_bytes)
    part = await receiver.folders.open_part(record)
    assert isinstance(part, PartFile)
    part.create()
    with pytest.raises(StoreError, match="another list"):
        write_all(part, sender.source(one))
    with pytest.raises(StoreError, match="of another one"):
        await receiver.open_part(attrs.evolve(record, size_bytes=record.size_bytes + 1))


async def test_a_list_that_is_none_is_refused(tmp_path: Path, sender: Device, receiver: Device) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    prepared.list_file.path.write_bytes(b"something else")
    with pytest.raises(StoreError, match="no list that can be read"):
        await receiver.open_part(record_of(prepared, tmp_path / "copy"))


async def test_a_folder_is_never_published_over_another(tmp_path: Path, sender: Device, receiver: Device) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    (tmp_path / "copy").mkdir()
    with pytest.raises(OutputExists):
        await receiver.fetch(prepared, sender.source(prepared), tmp_path / "copy")
    assert not os.listdir(tmp_path / "copy")


async def test_discarding_removes_what_was_made_and_nothing_else(
    tmp_path: Path, sender: Device, receiver: Device
) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    for only in ((), ("last",)):
        part = await receiver.open_part(record_of(prepared, tmp_path / "copy", *only))
        part.discard()
        part.create()
        write_all(part, sender.source(prepared))
        part.discard()
        assert not part.path.exists()
    assert not list((tmp_path / "receiver/trees").glob("*.[js]*"))
    part.create()
    write_all(part, sender.source(prepared))
    (part.path / "a").mkdir()
    (part.path / "a/mine").touch()
    part.discard()
    assert [path.name for path in part.path.rglob("*")] == ["a", "mine"]


async def test_zeros_are_left_out_unless_something_else_is_there(
    tmp_path: Path, sender: Device, receiver: Device
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/zeros").write_bytes(bytes(4 * MIB))
    prepared = await sender.offer(tmp_path / "root")
    part = await receiver.open_part(record_of(prepared, tmp_path / "copy"))
    part.create()
    pieces = list(range(part.shape.node_count + 16))
    write_all(part, sender.source(prepared), pieces[part.shape.node_count :])
    assert not os.listdir(part.path)
    assert part.verify(pieces[1:]) == pieces[1:]
    (part.path / "zeros").write_bytes(b"damage")
    assert part.verify(pieces[1:3]) == [2]
    write_all(part, sender.source(prepared))
    part.sync()
    part.publish(tmp_path / "copy")
    assert (tmp_path / "copy/zeros").read_bytes() == bytes(4 * MIB)


async def test_many_files_are_settled_a_part_at_a_time(tmp_path: Path, sender: Device, receiver: Device) -> None:
    (tmp_path / "root").mkdir()
    for number in range(1500):
        (tmp_path / "root" / f"{number:04}").touch()
    prepared = await sender.offer(tmp_path / "root")
    part = await receiver.open_part(record_of(prepared, tmp_path / "copy"))
    part.create()
    write_all(part, sender.source(prepared))
    assert part.settle()
    assert 0 < len(os.listdir(part.path)) < 1500
    part.sync()
    assert len(os.listdir(part.path)) == 1500
    assert not part.settle()


async def test_what_belongs_to_no_folder_is_removed_and_the_rest_kept(tmp_path: Path, sender: Device) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    kept = sorted(os.listdir(sender.home / "folders"))
    (sender.home / "folders/left.over").touch()
    await sender.folders.tidy_up()
    assert sorted(os.listdir(sender.home / "folders")) == kept
    del sender.table.files[prepared.content.file_id]
    await sender.folders.forget(prepared.content)
    assert os.listdir(sender.home / "folders") == [prepared.list_file.path.name]
    del sender.table.files[prepared.list_file.file_id]
    await sender.folders.forget(prepared.content)
    assert not os.listdir(sender.home / "folders")


async def test_cancelling_the_hashing_leaves_nothing_behind(tmp_path: Path, sender: Device) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/large").write_bytes(bytes(1))
    with (tmp_path / "root/dense").open("wb") as file:
        for _ in range(5):
            file.write(os.urandom(16 * MIB))
    with trio.CancelScope() as scope:
        await sender.folders.prepare(tmp_path / "root", "root", on_progress=lambda _done, _all: scope.cancel())
    assert scope.cancelled_caught
    assert not os.listdir(sender.home / "folders")
    assert not os.listdir(sender.home / "trees")


async def test_a_layout_says_how_much_room_it_needs(tmp_path: Path, sender: Device, receiver: Device) -> None:
    prepared = await sender.offer(make_folder(tmp_path / "root"))
    part = await receiver.open_part(record_of(prepared, tmp_path / "copy", "a/small", "b"))
    assert isinstance(part.layout, FolderLayout)
    assert part.layout.needed_bytes == len(b"small#!/bin/sh\n")
