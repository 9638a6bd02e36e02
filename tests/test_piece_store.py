"""Pieces on disk: hashing, verified reading and writing, the journal."""

import errno
import os
import random
from pathlib import Path

import pytest

from poolnet.errors import OutputExists, SourceUnavailable, StoreError
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MIB, TREE_FAN_OUT
from poolnet.protocol.hash_tree import TreeShape
from poolnet.ranges import RangeSet
from poolnet.storage.file_table import FileTable, LocalFile, PartRecord
from poolnet.storage.hashing import FileHasher
from poolnet.storage.piece_store import FileSource, PartFile, PiecesDamaged, SourceChanged
from poolnet.storage.tree_file import NodeCache, TreeFile


def hash_file(path: Path, tree_path: Path) -> tuple[FileId, int]:
    with FileHasher(path, tree_path.with_suffix(".new")) as hasher:
        while hasher.step():
            pass
        return hasher.finish(lambda file_id: tree_path), hasher.size_bytes


def make_source(tmp_path: Path, size: int, *, max_nodes: int = 8) -> FileSource:
    path = tmp_path / "source.bin"
    path.write_bytes(random.Random(size).randbytes(size))
    file_id, size = hash_file(path, tmp_path / "source.tree")
    return FileSource(
        path, TreeFile(tmp_path / "source.tree", file_id, TreeShape(size), NodeCache(max_nodes=max_nodes))
    )


def make_part(tmp_path: Path, source: FileSource) -> PartFile:
    tree = TreeFile(tmp_path / "part.tree", source.file_id, source.shape, NodeCache(max_nodes=8))
    return PartFile(tmp_path / "a.part", tree, tmp_path / "a.journal")


def all_pieces(source: FileSource) -> list[tuple[int, bytes]]:
    return list(enumerate(source.read_pieces(range(source.shape.piece_count))))


@pytest.mark.parametrize("size", [1, CHUNK_SIZE, CHUNK_SIZE + 1, 5 * MIB + 1])
def test_pieces_read_from_a_source_make_the_same_file(tmp_path: Path, size: int) -> None:
    source = make_source(tmp_path, size)
    part = make_part(tmp_path, source)
    part.create()
    assert part.write_pieces(all_pieces(source)) == [True] * source.shape.piece_count
    assert part.read_pieces([source.shape.piece_count - 1]) == source.read_pieces([source.shape.piece_count - 1])
    part.sync()
    part.publish(tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == source.path.read_bytes()
    assert hash_file(tmp_path / "copy.bin", tmp_path / "copy.tree") == (source.file_id, size)
    if size > CHUNK_SIZE:
        assert (tmp_path / "copy.tree").read_bytes() == (tmp_path / "part.tree").read_bytes()
    assert not (tmp_path / "a.journal").exists()
    assert part.read_pieces([0]) == source.read_pieces([0])


def test_a_tree_larger_than_the_cache_is_read_from_disk_and_verified(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 3 * TREE_FAN_OUT * CHUNK_SIZE)
    file_id, size = hash_file(path, tmp_path / "t")
    tree = TreeFile(tmp_path / "t", file_id, TreeShape(size), NodeCache(max_nodes=1))
    assert tree.is_complete()
    assert tree.present_nodes() == [0, 1, 2, 3]
    source = FileSource(path, tree)
    assert source.read_pieces([4, 4 + 2 * TREE_FAN_OUT]) == [bytes(CHUNK_SIZE)] * 2
    with (tmp_path / "t").open("r+b") as file:
        file.seek(TreeShape(size).node_offset(2))
        file.write(b"damage")
    assert TreeFile(tmp_path / "t", file_id, TreeShape(size), NodeCache()).present_nodes() == [0, 1, 3]


def test_a_piece_is_refused_unless_it_is_genuine_and_its_parent_is_there(tmp_path: Path) -> None:
    source = make_source(tmp_path, 2 * MIB)
    part = make_part(tmp_path, source)
    part.create()
    pieces = all_pieces(source)
    with pytest.raises(PiecesDamaged) as caught:
        part.write_pieces(pieces[1:3])
    assert caught.value.pieces == [0]
    assert part.write_pieces([(0, pieces[0][1]), (1, pieces[2][1]), (2, pieces[2][1]), (99, b"")]) == [
        True,
        False,
        True,
        False,
    ]
    assert part.verify([1, 2, 3]) == [2]


@pytest.mark.parametrize("change", ["edit", "cut", "grow", "remove", "replace by directory"])
def test_a_changed_source_is_noticed_on_reading(tmp_path: Path, change: str) -> None:
    source = make_source(tmp_path, 2 * MIB)
    match change:
        case "edit":
            with source.path.open("r+b") as file:
                file.seek(MIB + 5)
                file.write(b"!")
            assert len(source.read_pieces([0, 1])) == 2
        case "cut":
            os.truncate(source.path, MIB)
        case "grow":
            os.truncate(source.path, 3 * MIB)
        case "remove":
            source.path.unlink()
        case _:
            source.path.unlink()
            source.path.mkdir()
    with pytest.raises(SourceChanged, match=r"source\.bin"):
        source.read_pieces([source.shape.piece_of_chunk(4)])


def test_a_damaged_tree_gives_no_wrong_piece(tmp_path: Path) -> None:
    source = make_source(tmp_path, 2 * MIB)
    (tmp_path / "source.tree").write_bytes(bytes(source.shape.tree_size_bytes))
    with pytest.raises(SourceChanged):
        source.read_pieces([1])


def test_for_a_damaged_tree_of_a_part_no_piece_is_called_wrong(tmp_path: Path) -> None:
    source = make_source(tmp_path, 2 * MIB)
    pieces = all_pieces(source)
    part = make_part(tmp_path, source)
    part.create()
    part.write_pieces(pieces[:2])
    part.tree.path.write_bytes(bytes(source.shape.tree_size_bytes))
    damaged = make_part(tmp_path, source)  # which has nothing in memory
    with pytest.raises(PiecesDamaged) as caught:
        damaged.write_pieces(pieces[2:4])
    assert caught.value.pieces == [0]
    assert damaged.write_pieces([pieces[0], *pieces[2:4]]) == [True, True, True]


def test_a_part_that_was_changed_by_somebody_else_tells_which_pieces(tmp_path: Path) -> None:
    source = make_source(tmp_path, 2 * MIB)
    part = make_part(tmp_path, source)
    part.create()
    part.write_pieces(all_pieces(source))
    with part.path.open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(PiecesDamaged) as caught:
        part.read_pieces([0, 1, 2])
    assert caught.value.pieces == [1]


def test_zeros_take_no_room_unless_something_else_is_there(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(4 * MIB) + b"end")
    file_id, size = hash_file(path, tmp_path / "t")
    source = FileSource(path, TreeFile(tmp_path / "t", file_id, TreeShape(size), NodeCache()))
    part = make_part(tmp_path, source)
    part.create()
    part.write_pieces(all_pieces(source))
    assert part.path.stat().st_blocks * 512 < MIB
    with part.path.open("r+b") as file:
        file.write(b"damage")
    assert part.verify([1, 2]) == [2]
    part.write_pieces(all_pieces(source)[1:2])
    assert part.path.read_bytes() == path.read_bytes()


def test_a_pipe_in_the_place_of_a_source_does_not_block(tmp_path: Path) -> None:
    source = make_source(tmp_path, 2 * MIB)
    source.path.unlink()
    os.mkfifo(source.path)
    with pytest.raises(SourceChanged):
        source.read_pieces([1])


def test_a_journal_tells_what_was_written_whatever_its_end_looks_like(tmp_path: Path) -> None:
    source = make_source(tmp_path, 4 * MIB)
    part = make_part(tmp_path, source)
    assert part.reopen() is None
    part.create()
    part.write_pieces(all_pieces(source)[:4])
    part.note_written(RangeSet([(7, 9), (900, 1000)]))
    with (tmp_path / "a.journal").open("ab") as journal:
        journal.write(b"torn")
    again = make_part(tmp_path, source)
    assert again.reopen() == RangeSet([(1, 4), (7, 9)])
    assert again.verify([1, 2, 3, 7, 8]) == [1, 2, 3]
    again.begin_journal(RangeSet([(1, 4)]))
    assert make_part(tmp_path, source).reopen() == RangeSet([(1, 4)])
    os.truncate(part.path, 5)
    assert again.reopen() is None
    with pytest.raises(OutputExists):
        again.create()


def test_a_file_that_changes_while_it_is_hashed_is_refused(tmp_path: Path) -> None:
    path, tree = tmp_path / "a", tmp_path / "t"
    path.write_bytes(bytes(20 * MIB))
    with FileHasher(path, tree) as hasher:
        assert hasher.step()
        os.truncate(path, 10 * MIB)
        with pytest.raises(SourceUnavailable, match="cut while"):
            hasher.step()
    with FileHasher(path, tree) as hasher:
        assert not hasher.step()
        os.utime(path, ns=(1, 1))
        with pytest.raises(SourceUnavailable, match="changed while"):
            hasher.finish(lambda file_id: tree)


def test_an_error_while_hashing_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(KeyError), FileHasher(tmp_path / "a", tmp_path / "t"):
        raise KeyError
    assert not (tmp_path / "t").exists()


def test_a_disk_that_turns_read_only_while_hashing_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "a").write_bytes(bytes(CHUNK_SIZE))
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StoreError, match="Read-only"):
        hash_file(tmp_path / "a", tmp_path / "tree")


async def test_lists_of_files_come_back_and_strays_are_removed(tmp_path: Path) -> None:
    table = FileTable(tmp_path)
    await table.load()
    file = LocalFile(
        file_id=FileId(bytes(32)), name="ü\u202e", size_bytes=5, path=Path("/x/\udc80"), mtime_ns=7, is_own=True
    )
    record = PartRecord(file_id=FileId(bytes([1]) * 32), name="b", size_bytes=6, target=Path("/y/b"))
    table.files[file.file_id] = file
    table.parts[record.file_id] = record
    await table.save_files()
    await table.save_parts()
    table.tree_path(file.file_id).touch()
    table.new_tree_path().touch()
    again = FileTable(tmp_path)
    await again.load()
    assert (again.files, again.parts) == (table.files, table.parts)
    assert list((tmp_path / "trees").iterdir()) == [table.tree_path(file.file_id)]
    assert record.part_path == Path("/y/b.part")


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"file_id": "x"}]', '[{"file_id": 5}]'])
async def test_a_list_that_is_not_ours_is_a_store_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "offers.json").write_text(content)
    with pytest.raises(StoreError, match=r"offers\.json"):
        await FileTable(tmp_path).load()


def make_sparse_source(tmp_path: Path) -> FileSource:
    """Eight chunks; the first and the sixth are no zeros."""
    path = tmp_path / "source.bin"
    path.write_bytes(b"x" * CHUNK_SIZE + bytes(4 * CHUNK_SIZE) + b"y" * CHUNK_SIZE + bytes(2 * CHUNK_SIZE - 5))
    file_id, size = hash_file(path, tmp_path / "source.tree")
    return FileSource(path, TreeFile(tmp_path / "source.tree", file_id, TreeShape(size), NodeCache(max_nodes=8)))


def test_what_the_tree_says_is_zeros_is_not_fetched_while_it_is_a_hole(tmp_path: Path) -> None:
    source = make_sparse_source(tmp_path)
    part = make_part(tmp_path, source)
    part.create()
    chunks = RangeSet([(source.shape.node_count, source.shape.piece_count)])
    assert not part.find_holes(chunks), "nothing is known before the tree is here"
    part.write_pieces(all_pieces(source)[: source.shape.node_count])
    first = source.shape.node_count
    assert part.find_holes(chunks).to_ranges() == ((first + 1, first + 5), (first + 6, first + 7)), (
        "the last is no whole"
    )
    assert part.find_holes(RangeSet([(first + 2, first + 4)])).to_ranges() == ((first + 2, first + 4),)
    assert part.reopen() == RangeSet([(first + 1, first + 5), (first + 6, first + 7)]), "that survives a crash"


def test_where_something_is_there_is_no_hole(tmp_path: Path) -> None:
    source = make_sparse_source(tmp_path)
    part = make_part(tmp_path, source)
    part.create()
    part.write_pieces(all_pieces(source)[: source.shape.node_count])
    with part.path.open("r+b") as file:
        file.seek(2 * CHUNK_SIZE + 100)
        file.write(b"left over")
    first = source.shape.node_count
    holes = part.find_holes(RangeSet([(first, source.shape.piece_count)]))
    assert first + 2 not in holes
    assert first + 1 in holes
    assert part.verify(list(holes)) == list(holes)


def test_a_download_is_complete_though_its_journal_cannot_be_removed(tmp_path: Path) -> None:
    source = make_source(tmp_path, 5 * CHUNK_SIZE)
    part = make_part(tmp_path, source)
    part.create()
    part.write_pieces(all_pieces(source))
    part.sync()
    (tmp_path / "a.journal").unlink()
    (tmp_path / "a.journal").mkdir()
    part.publish(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == source.path.read_bytes()


def test_nodes_that_are_only_remembered_are_not_there(tmp_path: Path) -> None:
    source = make_source(tmp_path, 5 * CHUNK_SIZE)
    part = make_part(tmp_path, source)
    assert part.write_pieces([(0, source.read_pieces([0])[0])]) == [True]
    assert part.tree.present_nodes() == [0]
    part.tree.path.unlink()
    assert part.tree.present_nodes() == []
