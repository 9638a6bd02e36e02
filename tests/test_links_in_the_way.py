"""Links, pipes and second names that take the place of what this device writes: nothing outside is touched by them."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from poolnet.errors import OutputExists, PoolnetError, SourceUnavailable, StoreError
from poolnet.files.contents import _copy_chunks
from poolnet.files.part_paths import move_part, put_part_aside
from poolnet.ids import FileId
from poolnet.protocol.hash_tree import TreeBuilder, TreeShape, hash_chunk
from poolnet.ranges import RangeSet
from poolnet.storage.files import download_target, publish_without_overwrite
from poolnet.storage.folder_copy import FolderCopier
from poolnet.storage.folder_hashing import FolderHasher
from poolnet.storage.folder_index import FolderIndex
from poolnet.storage.folder_layout import FolderLayout, Selection
from poolnet.storage.folder_walk import FolderWalk
from poolnet.storage.media_cache import copy_verified
from poolnet.storage.no_links import FolderRoot, open_file, opened_folder
from poolnet.storage.piece_store import PartFile
from poolnet.storage.tree_file import NodeCache, TreeFile
from poolnet.wire.folder_list import EntryKind

LIST_ID = FileId(bytes(range(1, 33)))
CONTENT = b"x" * 100
PRECIOUS = b"p" * len(CONTENT)
MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "symbolic link": lambda place, victim: place.symlink_to(victim),
    "second name": lambda place, victim: place.hardlink_to(victim),
    "pipe": lambda place, victim: os.mkfifo(place),
    "directory": lambda place, victim: place.mkdir(),
    "link to nothing": lambda place, victim: place.symlink_to(victim.with_name("nothing")),
}


def put_in_place(kind: str, place: Path, victim: Path) -> None:
    place.unlink(missing_ok=True)
    MAKERS[kind](place, victim)


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file of the user's elsewhere, which is the same afterwards."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = elsewhere / "victim"
    path.write_bytes(PRECIOUS)
    yield path
    assert path.read_bytes() == PRECIOUS
    assert os.listdir(elsewhere) == ["victim"], "nothing was made or removed there"


def make_part(directory: Path) -> PartFile:
    tree = TreeBuilder()
    tree.add(hash_chunk(CONTENT))
    file_id, nodes = tree.finish(len(CONTENT))
    assert not nodes, "one chunk is its own tree"
    shape = TreeShape(len(CONTENT))
    return PartFile(
        directory / "a.part",
        TreeFile(directory / "tree", file_id, shape, NodeCache(max_nodes=1)),
        directory / "journal",
    )


OPERATIONS: dict[str, Callable[[PartFile], object]] = {
    "write": lambda part: part.write_pieces([(0, CONTENT)]),
    "read": lambda part: part.read_pieces([0]),
    "verify": lambda part: part.verify([0]),
    "find holes": lambda part: part._holes(range(1)),
    "write back": lambda part: part.write_back(),
    "sync": lambda part: part.sync(),
    "publish": lambda part: part.publish(part.path.with_name("done")),
    "create": lambda part: part.create(),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_takes_the_place_of_a_part_is_not_taken_for_it(
    tmp_path: Path, victim: Path, kind: str, operation: str
) -> None:
    part = make_part(tmp_path)
    part.create()
    put_in_place(kind, part.path, victim)
    is_refused = kind != "second name" or operation in ("write", "create")
    if is_refused:
        with pytest.raises((StoreError, OutputExists)):
            OPERATIONS[operation](part)
        assert not (tmp_path / "done").exists()
    else:
        with suppress(StoreError):
            OPERATIONS[operation](part)  # of what has a second name, reading and renaming harms nobody


@pytest.mark.parametrize("kind", ["symbolic link", "pipe", "directory", "link to nothing"])
def test_a_download_is_not_taken_up_again_with_something_else_than_a_file(
    tmp_path: Path, victim: Path, kind: str
) -> None:
    part = make_part(tmp_path)
    part.create()
    put_in_place(kind, part.path, victim)
    assert part.reopen() is None
    put_part_aside(part.path)
    assert os.path.lexists(part.path), "whoever's it is, it stays"
    part.discard()
    assert os.path.lexists(part.path)
    with pytest.raises(OutputExists, match="move it away"):
        part.create()


def test_chunks_that_are_here_are_not_copied_through_a_link(tmp_path: Path, victim: Path) -> None:
    part = make_part(tmp_path)
    part.create()
    put_in_place("symbolic link", part.path, victim)
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with pytest.raises(StoreError, match="a link, or something else, is in its place"):
        _copy_chunks(source, part.path, part, [0])


def test_a_pipe_in_the_place_of_a_source_is_no_source(tmp_path: Path) -> None:
    part = make_part(tmp_path)
    part.create()
    os.mkfifo(tmp_path / "source")
    assert not _copy_chunks(tmp_path / "source", part.path, part, [0])
    with pytest.raises(SourceUnavailable):
        copy_verified(tmp_path / "source", part.file_id, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_part_is_moved_neither_over_a_link_nor_over_what_comes_just_then(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, part = tmp_path / "a.part", tmp_path / "b.part"
    earlier.write_bytes(CONTENT)
    part.symlink_to(tmp_path / "nothing")
    with pytest.raises(OutputExists):
        move_part(earlier, part)
    part.unlink()
    part.write_bytes(b"mine")
    monkeypatch.setattr("poolnet.files.part_paths.is_anything", lambda path: path == earlier)  # it came after the look
    with pytest.raises(OutputExists):
        move_part(earlier, part)
    assert (part.read_bytes(), earlier.read_bytes()) == (b"mine", CONTENT)


@pytest.mark.parametrize("kind", ["symbolic link", "link to nothing"])
def test_a_link_at_the_place_of_a_download_or_a_copy_is_not_followed(tmp_path: Path, victim: Path, kind: str) -> None:
    target, source = tmp_path / "a", tmp_path / "source"
    MAKERS[kind](target, victim)
    source.write_bytes(CONTENT)
    with pytest.raises(OutputExists):
        download_target(target, "a")
    with pytest.raises(OutputExists):
        publish_without_overwrite(source, target)
    with pytest.raises(OutputExists):
        copy_verified(source, make_part(tmp_path).file_id, target)
    assert target.is_symlink()


# --- folders --------------------------------------------------------------------------------------------------------


def make_layout(directory: Path, *, is_selected: bool = True) -> FolderLayout:
    """A folder of one file that is called like the victim, in a subdirectory, and one at its top."""
    index = FolderIndex()
    index.append("sub/victim", len(CONTENT), EntryKind.FILE)
    index.append("top", len(CONTENT), EntryKind.FILE)
    selected = bytearray([is_selected, True])
    return FolderLayout(lambda: index, LIST_ID, Selection(selected=selected, spill=directory / "spill"))


def settle(layout: FolderLayout, path: Path) -> None:
    position: int | None = 0
    while position is not None:
        position = layout.settle(path, position)


def write_all(layout: FolderLayout, path: Path) -> None:
    with layout.writing(path) as files:
        files.write(0, CONTENT * 2)


def read_all(layout: FolderLayout, path: Path) -> bytes:
    with layout.reading(path, is_complete=False) as files:
        return files.read(0, len(CONTENT))


def copy_into(layout: FolderLayout, path: Path) -> None:
    source = path.with_name("source")
    source.write_bytes(CONTENT)
    copier = FolderCopier(path, layout, [(0, source)])
    while copier.step():
        pass


FOLDER_OPERATIONS: dict[str, Callable[[FolderLayout, Path], object]] = {
    "write": write_all,
    "read": read_all,
    "settle": settle,
    "copy": copy_into,
}


@pytest.mark.parametrize("operation", FOLDER_OPERATIONS)
@pytest.mark.parametrize("swapped", ["sub", "sub/victim", ""])
def test_a_link_in_the_place_of_a_folder_or_of_something_in_it_is_not_followed(
    tmp_path: Path, victim: Path, swapped: str, operation: str
) -> None:
    layout, part = make_layout(tmp_path), tmp_path / "x.part"
    if swapped == "sub/victim":
        (part / "sub").mkdir(parents=True)
        (part / swapped).symlink_to(victim)
    elif swapped == "sub":
        part.mkdir()
        (part / "sub").symlink_to(victim.parent)
    else:
        part.symlink_to(victim.parent)
    with pytest.raises((OSError, StoreError), match="a link, or something else, is in its place"):
        FOLDER_OPERATIONS[operation](layout, part)
    layout.discard(part)
    assert layout.missing_bytes(part, 0) is None or swapped


def test_what_is_not_selected_any_more_is_not_removed_through_a_link(tmp_path: Path, victim: Path) -> None:
    layout, part = make_layout(tmp_path, is_selected=False), tmp_path / "x.part"
    part.mkdir()
    (part / "sub").symlink_to(victim.parent)
    with pytest.raises(OSError, match="a link, or something else, is in its place"):
        settle(layout, part)


def test_the_spill_is_not_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    layout, part = make_layout(tmp_path, is_selected=False), tmp_path / "x.part"
    part.mkdir()
    (tmp_path / "spill").symlink_to(victim)
    with pytest.raises(OSError, match="a link, or something else, is in its place"):
        write_all(layout, part)


def test_a_link_is_not_published_as_a_folder(tmp_path: Path, victim: Path) -> None:
    layout, part = make_layout(tmp_path), tmp_path / "x.part"
    part.symlink_to(victim.parent)
    with pytest.raises(StoreError, match="no folder any more"):
        layout.publish(part, tmp_path / "x")
    assert not os.path.lexists(tmp_path / "x")


def test_a_folder_that_is_removed_while_it_is_written_is_an_error_like_any_other(tmp_path: Path) -> None:
    layout, part = make_layout(tmp_path), tmp_path / "x.part"
    part.mkdir()
    with layout.writing(part) as files:
        part.rmdir()
        with pytest.raises(FileNotFoundError):
            files.write(0, CONTENT)


def test_directories_are_made_as_deep_as_they_are_missing_and_only_one_stays_open(tmp_path: Path) -> None:
    deep = "/".join("abcdefgh")
    with opened_folder(tmp_path) as root:
        before = len(os.listdir("/proc/self/fd"))
        root.make_directories(deep)
        root.make_directories(deep)
        os.close(root.open_file(f"{deep}/file", os.O_WRONLY | os.O_CREAT))
        os.close(root.open_file(f"{deep}/file", os.O_RDONLY))
        assert len(os.listdir("/proc/self/fd")) == before + 1
        root.unlink(f"{deep}/file")
        root.rmdir(deep)
        with pytest.raises(FileNotFoundError):
            root.stat(deep)


# --- a race ---------------------------------------------------------------------------------------------------------


@contextmanager
def swapping(place: Path, victim: Path) -> Iterator[None]:
    """During the block, another thread puts a link in the place of something and takes it away, all the time.

    Each change is one rename, so that `place` is always one of both.
    """
    true, link = place.with_name("true"), place.with_name("link")
    has_ended = threading.Event()
    link.symlink_to(victim)

    def swap() -> None:
        while not has_ended.is_set():
            with suppress(OSError):
                place.rename(true)
                link.rename(place)
                place.rename(link)
                true.rename(place)

    thread = threading.Thread(target=swap)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()
        sys.setswitchinterval(interval)


def attempt(action: Callable[[], object]) -> None:
    """Do it, unless what is in the way just now is noticed."""
    with suppress(PoolnetError, OSError):
        action()


def test_whoever_swaps_a_file_for_a_link_all_the_time_has_nothing_written_through_it(
    tmp_path: Path, victim: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    part = make_part(shared)
    part.create()
    part._journal.remove()
    part._journal._path = tmp_path / "journal"
    with swapping(part.path, victim):
        for _ in range(1000):
            attempt(lambda: part.write_pieces([(0, CONTENT)]))
    assert part.write_pieces([(0, CONTENT)]) == [True], "nobody swaps it any more"


def test_whoever_swaps_a_subdirectory_for_a_link_all_the_time_has_nothing_written_or_removed_through_it(
    tmp_path: Path, victim: Path
) -> None:
    layout, part = make_layout(tmp_path), tmp_path / "x.part"
    (part / "sub").mkdir(parents=True)
    with swapping(part / "sub", victim.parent):
        for _ in range(200):
            attempt(lambda: write_all(layout, part))
        for _ in range(50):
            attempt(lambda: settle(layout, part))
            with suppress(OSError), opened_folder(part) as root:
                root.unlink("sub/victim")
    write_all(layout, part)
    assert read_all(layout, part) == CONTENT


def test_a_secret_that_is_swapped_into_a_folder_while_it_is_offered_is_not_hashed(tmp_path: Path, victim: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "sub" / "victim").write_bytes(CONTENT)
    stamp = victim.stat().st_mtime_ns
    os.utime(shared / "sub" / "victim", ns=(stamp, stamp))  # size and time are the same as the secret's
    seen = set()

    def offer() -> None:
        walk = FolderWalk(shared)
        while walk.step():
            pass
        with FolderHasher(walk, tmp_path / "tree") as hasher:
            while hasher.step():
                pass
            seen.update(entry.file_id for entry in hasher.entries() if entry.path == "sub/victim")

    with swapping(shared / "sub", victim.parent):
        for _ in range(300):
            attempt(offer)
    offer()
    for content in (CONTENT, PRECIOUS):
        tree = TreeBuilder()
        tree.add(hash_chunk(content))
        assert (tree.finish(len(content))[0] in seen) == (content == CONTENT)


def walk_all(path: Path) -> FolderWalk:
    walk = FolderWalk(path)
    while walk.step():
        pass
    return walk


def test_a_subdirectory_that_becomes_a_link_after_the_walk_is_not_hashed(tmp_path: Path, victim: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "sub" / "victim").write_bytes(CONTENT)
    stamp = victim.stat().st_mtime_ns
    os.utime(shared / "sub" / "victim", ns=(stamp, stamp))
    walk = walk_all(shared)
    (shared / "sub").rename(tmp_path / "away")
    (shared / "sub").symlink_to(victim.parent)
    with (
        pytest.raises(SourceUnavailable, match="a link, or something else, is in its place"),
        FolderHasher(walk, tmp_path / "tree") as hasher,
    ):
        hasher.step()


def test_a_subdirectory_that_becomes_a_link_during_the_walk_is_not_listed(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    opening = FolderRoot.opened_directory

    def swap_and_open(root: FolderRoot, path: str) -> AbstractContextManager[int]:
        if path:
            (shared / path).rmdir()
            (shared / path).symlink_to(victim.parent)
        return opening(root, path)

    monkeypatch.setattr(FolderRoot, "opened_directory", swap_and_open)
    with pytest.raises(SourceUnavailable, match="a link, or something else, is in its place"):
        walk_all(shared)


def test_a_walk_leaves_out_what_turns_into_a_link_after_it_was_listed(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "a").write_bytes(CONTENT)
    looked = FolderRoot.stat

    def swap_and_look(root: FolderRoot, path: str) -> os.stat_result:
        put_in_place("symbolic link", shared / path, victim)
        return looked(root, path)

    monkeypatch.setattr(FolderRoot, "stat", swap_and_look)
    assert walk_all(shared).index.paths == ["sub"]


def test_a_file_is_never_cut_by_opening_it(victim: Path) -> None:
    with pytest.raises(AssertionError):
        open_file(victim, os.O_WRONLY | os.O_TRUNC)


def test_chunks_of_a_part_are_found_again_as_long_as_nobody_swaps_it(tmp_path: Path) -> None:
    part = make_part(tmp_path)
    part.create()
    assert part.write_pieces([(0, CONTENT)]) == [True]
    assert part.reopen() == RangeSet.of([0])
    assert part.verify([0]) == [0]
    part.sync()
    part.publish(tmp_path / "done")
    assert (tmp_path / "done").read_bytes() == CONTENT
