"""The list of a folder on the wire, and the names that its files get on another device."""

import contextlib
import itertools
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.errors import UnknownFile, WireError
from poolnet.ids import FileId
from poolnet.limits import MAX_FILE_SIZE, MAX_FOLDER_DEPTH, MAX_FOLDER_PATH_BYTES
from poolnet.storage.files import safe_file_name
from poolnet.storage.folder_index import index_list, select_entries
from poolnet.storage.folder_names import FolderNames
from poolnet.wire.folder_list import (
    FOLDER_TRAILER_SIZE,
    EntryKind,
    FolderEntry,
    decode_folder_list_untrusted,
    empty_directory,
    encode_folder_list,
    path_order,
)

NAMES = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def file(path: str, size: int = 1, kind: EntryKind = EntryKind.FILE) -> FolderEntry:
    return FolderEntry(path=path, size_bytes=size, file_id=FileId(bytes([7]) * 32), kind=kind)


def without_clashes(paths: set[str]) -> list[str]:
    """Return paths in order, without those that another one has as a directory."""
    directories = {path[:end] for path in paths for end in range(len(path)) if path[end] == "/"}
    return sorted(paths - directories, key=path_order)


@st.composite
def folders(draw: st.DrawFn) -> list[FolderEntry]:
    paths = without_clashes(draw(st.sets(PATHS, max_size=12)))
    kinds = st.sampled_from(EntryKind)
    return [
        empty_directory(path)
        if (kind := draw(kinds)) == EntryKind.EMPTY_DIRECTORY
        else file(path, draw(st.integers(0, 2**40)), kind)
        for path in paths
    ]


def encoded(entries: list[FolderEntry]) -> bytes:
    return b"".join(encode_folder_list(entries))


def raw(path: bytes, *, kind: int = 0, size: int = 1, file_id: bytes = bytes([7]) * 32) -> bytes:
    return struct.pack(">BHQ32s", kind, len(path), size, file_id) + path


def pieces_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[start:stop] for start, stop in itertools.pairwise(bounds))


@given(folders(), st.lists(st.integers(0, 10_000), max_size=5))
def test_a_list_comes_back_however_it_is_cut_on_the_way(entries: list[FolderEntry], cuts: list[int]) -> None:
    assert list(decode_folder_list_untrusted(pieces_of(encoded(entries), cuts))) == entries


@given(st.binary(max_size=200), st.booleans())
def test_garbage_raises_only_wire_errors(data: bytes, has_magic: bool) -> None:
    data = encoded([]) + data if has_magic else data
    try:
        entries = list(decode_folder_list_untrusted([data]))
    except WireError:
        return
    assert encoded(entries) == data


@given(folders(), st.data())
def test_a_list_that_is_cut_off_is_refused(entries: list[FolderEntry], data: st.DataObject) -> None:
    whole = encoded(entries)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(WireError):
        assert list(decode_folder_list_untrusted([cut])) != entries


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/etc/passwd",
        b"a//b",
        b"a/",
        b"..",
        b"a/../../b",
        b"./a",
        b"a\\b",
        b"a\0b",
        b"\xff",
        b"a" * (MAX_FOLDER_PATH_BYTES + 1),
        b"a/" * MAX_FOLDER_DEPTH + b"a",
    ],
)
def test_a_path_that_may_lead_elsewhere_is_refused(path: bytes) -> None:
    with pytest.raises(WireError):
        list(decode_folder_list_untrusted([encoded([]) + raw(path)]))


@pytest.mark.parametrize(
    "entries",
    [
        raw(b"a") + raw(b"a"),
        raw(b"b") + raw(b"a"),
        raw(b"a") + raw(b"a/b"),
        raw(b"a", kind=2, size=0, file_id=bytes(32)) + raw(b"a/b"),
        raw(b"a", kind=3),
        raw(b"a", kind=2, size=1, file_id=bytes(32)),
        raw(b"a", kind=2, size=0),
        raw(b"a", size=MAX_FILE_SIZE - FOLDER_TRAILER_SIZE + 1),
        raw(b"a", size=MAX_FILE_SIZE - FOLDER_TRAILER_SIZE) + raw(b"b"),
        b"\0",
    ],
)
def test_a_list_that_no_device_writes_is_refused(entries: bytes) -> None:
    with pytest.raises(WireError):
        list(decode_folder_list_untrusted([encoded([]) + entries]))


def test_a_file_between_a_directory_and_what_is_in_it_is_in_order() -> None:
    entries = [file(path) for path in ("a/b", "a-b", "a.b")]
    assert list(decode_folder_list_untrusted([encoded(entries)])) == entries


def test_a_list_of_a_newer_version_is_refused() -> None:
    data = bytearray(encoded([]))
    data[-1] += 1
    with pytest.raises(WireError, match="newer version"):
        list(decode_folder_list_untrusted([bytes(data)]))


@given(st.sets(PATHS, max_size=20))
def test_names_are_safe_and_no_two_files_meet_on_any_file_system(paths: set[str]) -> None:
    ordered = without_clashes(paths)
    names = FolderNames()
    placed = [names.place(path) for path in ordered]
    again = FolderNames()
    assert [again.place(path) for path in ordered] == placed
    folded = {path.casefold() for path in placed}
    assert len(folded) == len(placed)
    assert not folded & {path[:end] for path in folded for end in range(len(path)) if path[end] == "/"}
    for path, local in zip(ordered, placed, strict=True):
        assert path.count("/") == local.count("/")
        assert all(safe_file_name(name) == name for name in local.split("/"))


def test_names_that_are_alike_get_numbers_and_the_first_keeps_its_own() -> None:
    names = FolderNames()
    paths = ["A/x", "A/y", "README", "a/x", "con", "e\u0301.txt", "readme", "readMe (2)", "\u00e9.txt"]
    assert [names.place(path) for path in sorted(paths, key=path_order)] == [
        "A/x",
        "A/y",
        "README",
        "a (2)/x",
        "_con",
        "é.txt",
        "readMe (2)",
        "readme (3)",
        "é (2).txt",
    ]


def test_many_names_that_become_the_same_take_no_quadratic_time() -> None:
    names = FolderNames()
    placed = {names.place("\u200b" * (n + 1)) for n in range(500)}
    assert placed == {"file", *(f"file ({n})" for n in range(2, 501))}


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 80), st.integers(0, 40))
def test_an_index_finds_the_files_that_a_part_of_the_content_is_in(sizes: list[int], offset: int, size: int) -> None:
    index = index_list([file(f"{n:02}", each) for n, each in enumerate(sizes)], is_own=True)
    content = [(n, place) for n, each in enumerate(sizes) for place in range(each)]
    content += [(len(sizes), place) for place in range(FOLDER_TRAILER_SIZE)]
    assert index.content_size == len(content)
    size = max(0, min(size, len(content) - offset))
    found = [(n, start + i) for n, start, count in index.spans(offset, size) for i in range(count)]
    assert found == content[offset : offset + size]


def test_files_and_subfolders_are_selected_by_their_paths() -> None:
    entries = [file("a/b/c"), file("a/bc"), file("a/d"), empty_directory("a/e"), file("b")]
    assert list(select_entries(entries, ["a/b/", "./b"])) == [1, 0, 0, 0, 1]
    assert list(select_entries(entries, ["a"])) == [1, 1, 1, 1, 0]
    assert list(select_entries(entries, ["a", "a/", "/a"])) == [1, 1, 1, 1, 0]
    with pytest.raises(UnknownFile, match=r"no 'c' in that folder; at its top there is 'a/', 'b'$"):
        select_entries(entries, ["a", "c"])


def test_files_and_subfolders_are_selected_by_patterns_as_they_are_left_out_of_an_offer() -> None:
    entries = [file("a/x.jpg"), file("b/c/x.jpg"), file("b/d"), empty_directory("e.jpg"), file("x.jpg"), file("[y]")]
    assert list(select_entries(entries, ["*.jpg"])) == [1, 1, 0, 1, 1, 0]
    assert list(select_entries(entries, ["?/*.jpg"])) == [1, 1, 0, 0, 0, 0]
    assert list(select_entries(entries, ["/b/*.jpg"])) == [0, 1, 0, 0, 0, 0]
    assert list(select_entries(entries, ["*.jpg/"])) == [0, 0, 0, 1, 0, 0]
    assert list(select_entries(entries, ["[bc]/", "a/x.jpg"])) == [1, 1, 1, 0, 0, 0]
    assert list(select_entries(entries, ["[y]"])) == [0, 0, 0, 0, 0, 1], "it is the name of a file"
    with pytest.raises(UnknownFile, match=r"no '\*\.png'"):
        select_entries(entries, ["*.jpg", "*.png"])
    many = [file(f"{number:02}") for number in range(20)]
    with pytest.raises(UnknownFile, match=r"'00', .*'07' and more$"):
        select_entries(many, ["*.png"])
