"""Walking through a folder, and hashing what is found."""

import os
import stat
from pathlib import Path

import pytest

from poolnet.errors import SourceUnavailable
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MIB, TREE_FAN_OUT
from poolnet.protocol.hash_tree import TreeShape, file_id_of
from poolnet.storage import hashing
from poolnet.storage.folder_hashing import FolderHasher
from poolnet.storage.folder_walk import FolderWalk
from poolnet.storage.hashing import ChunkHasher, FileHasher
from poolnet.wire.folder_list import EntryKind, decode_folder_list_untrusted, encode_folder_list


def make_files(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def walk(root: Path, *exclude: str, include_hidden: bool = False) -> FolderWalk:
    found = FolderWalk(root, exclude=exclude, include_hidden=include_hidden)
    while found.step():
        pass
    return found


def id_of(path: Path, tree_path: Path) -> FileId:
    with FileHasher(path, tree_path) as hasher:
        while hasher.step():
            pass
        return hasher.finish(lambda _: tree_path)


def test_a_walk_finds_files_and_empty_directories_in_the_order_of_a_list(tmp_path: Path) -> None:
    make_files(tmp_path, "b", "a/x", "a/sub/y", "a-b", "ü", "z.sh")
    (tmp_path / "void/within").mkdir(parents=True)
    (tmp_path / "z.sh").chmod(0o755)
    found = walk(tmp_path).index
    assert found.paths == ["a/sub/y", "a/x", "a-b", "b", "void/within", "z.sh", "ü"]
    assert [EntryKind(kind).name for kind in found.kinds[-3:]] == ["EMPTY_DIRECTORY", "EXECUTABLE", "FILE"]
    assert found.file_count == 6


def test_links_special_files_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    make_files(tmp_path, "a", ".hidden/b", "c/.d")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert walk(tmp_path).index.paths == ["a", "c"]
    assert walk(tmp_path, include_hidden=True).index.paths == [".hidden/b", "a", "c/.d"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.o", ["build/x.c", "src/build", "src/y.c"]),
        ("build", ["a.o", "src/deep/z.o", "src/y.c"]),
        ("build/", ["a.o", "src/build", "src/deep/z.o", "src/y.c"]),
        ("/build", ["a.o", "src/build", "src/deep/z.o", "src/y.c"]),
        ("src/*.o", ["a.o", "build/x.c", "build/x.o", "src/build", "src/deep", "src/y.c"]),
        ("**/y.*", ["a.o", "build/x.c", "build/x.o", "src/build", "src/deep/z.o"]),
    ],
)
def test_patterns_leave_out_what_they_match(tmp_path: Path, pattern: str, left: list[str]) -> None:
    make_files(tmp_path, "a.o", "build/x.o", "build/x.c", "src/y.c", "src/deep/z.o", "src/build")
    found = walk(tmp_path, pattern).index.paths
    assert [path for path in found if path != "src/deep" or "src/deep" in left] == left


def test_what_cannot_be_told_to_others_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "good").touch()
    with pytest.raises(SourceUnavailable, match="not a folder"):
        FolderWalk(tmp_path / "good")
    (tmp_path / "back\\slash").touch()
    with pytest.raises(SourceUnavailable, match="slash"):
        walk(tmp_path)
    assert walk(tmp_path, "*slash").index.paths == ["good"]
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff", os.O_CREAT))
    with pytest.raises(SourceUnavailable, match="UTF-8"):
        walk(tmp_path, "*slash")


def test_hashing_a_folder_gives_the_ids_of_its_files_and_of_all_of_them_in_a_row(tmp_path: Path) -> None:
    root = tmp_path / "root"
    sizes = {"a": 0, "b/one": CHUNK_SIZE, "b/two": 3 * MIB + 5, "c": 17, "d": 2 * CHUNK_SIZE - 17, "e": 9 * CHUNK_SIZE}
    for number, (path, size) in enumerate(sizes.items()):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(os.urandom(max(0, size - 99)) + bytes([number]) * min(size, 99))
    os.truncate(root / "e", 12 * CHUNK_SIZE + 3)
    (root / "f").mkdir()
    list_id = FileId(os.urandom(32))
    with FolderHasher(walk(root), tmp_path / "new") as hasher:
        while hasher.step():
            pass
        entries = list(hasher.entries())
        content_id = hasher.finish(list_id, lambda _: tmp_path / "content.tree")
    assert list(decode_folder_list_untrusted(encode_folder_list(entries))) == entries
    assert [entry.path for entry in entries] == [*sizes, "f"]
    files = entries[:-1]
    assert [entry.file_id for entry in files] == [id_of(root / entry.path, tmp_path / "t") for entry in files]
    (tmp_path / "whole").write_bytes(b"".join((root / entry.path).read_bytes() for entry in files) + list_id)
    assert id_of(tmp_path / "whole", tmp_path / "whole.tree") == content_id
    assert (tmp_path / "whole.tree").read_bytes() == (tmp_path / "content.tree").read_bytes()


@pytest.mark.parametrize("change", ["cut", "grow", "touch", "remove", "pipe"])
def test_a_file_that_changes_after_the_walk_is_refused_and_nothing_is_left(tmp_path: Path, change: str) -> None:
    root = tmp_path / "root"
    make_files(root, "a", "b")
    found = walk(root)
    match change:
        case "cut":
            os.truncate(root / "b", 0)
        case "grow":
            os.truncate(root / "b", 5)
        case "touch":
            os.utime(root / "b", ns=(1, 1))
        case "remove":
            (root / "b").unlink()
        case _:
            (root / "b").unlink()
            os.mkfifo(root / "b")
    with pytest.raises(SourceUnavailable, match="root/b"), FolderHasher(found, tmp_path / "new") as hasher:
        hasher.step()
    assert os.listdir(tmp_path) == ["root"]


def test_many_small_files_are_hashed_in_several_steps(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_files(root, *(f"{n:04}" for n in range(700)))
    with FolderHasher(walk(root), tmp_path / "new") as hasher:
        assert hasher.step()
        assert 0 < hasher.done_bytes < hasher.size_bytes
        assert not hasher.step()
        assert hasher.done_bytes == hasher.size_bytes


def test_portions_of_any_size_and_holes_give_the_same_id() -> None:
    whole = bytes(3 * CHUNK_SIZE) + os.urandom(CHUNK_SIZE + 5) + bytes(2 * CHUNK_SIZE) + b"end"
    one, many = ChunkHasher(), ChunkHasher()
    one.feed(memoryview(whole))
    many.feed(memoryview(whole)[:100])
    many.feed_zeros(3 * CHUNK_SIZE - 100)
    data = memoryview(whole)[3 * CHUNK_SIZE : 4 * CHUNK_SIZE + 5]
    for start in range(0, len(data), 70_000):
        many.feed(data[start : start + 70_000])
    many.feed_zeros(2 * CHUNK_SIZE)
    many.feed(memoryview(b"end"))
    assert one.finish() == many.finish()


def test_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(2 * TREE_FAN_OUT * CHUNK_SIZE + MIB)
        file.write(b"x" * MIB)
        file.truncate(3 * TREE_FAN_OUT * CHUNK_SIZE + 7)
    read: list[int] = []
    real = hashing.hash_chunk

    def counting(chunk: memoryview) -> bytes:
        read.append(len(chunk))
        return real(chunk)

    monkeypatch.setattr(hashing, "hash_chunk", counting)
    with FileHasher(path, tmp_path / "t") as hasher:
        while hasher.step():
            pass
        file_id = hasher.finish(lambda _: tmp_path / "t")
    assert sum(read) <= 2 * MIB
    monkeypatch.setattr(hashing.os, "SEEK_DATA", 99)  # a system that knows no holes
    assert id_of(path, tmp_path / "u") == file_id
    assert (tmp_path / "t").read_bytes() == (tmp_path / "u").read_bytes()
    assert TreeShape(path.stat().st_size).tree_size_bytes == (tmp_path / "t").stat().st_size


def test_an_empty_file_has_the_id_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert id_of(tmp_path / "a", tmp_path / "t") == file_id_of(0, bytes(32))
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o600
