"""The list of what is in a folder: paths, sizes and ids of its files, in canonical bytes of which the id is the list's.

A folder travels as two files. This list comes first; the *content* is all files one after another in the order of the
list, and at its end the id of the list itself. That trailer binds the two: content has one list, and no folder has the
id of a file, not even one with a single file in it.

Form: magic with the version, then for each entry kind, path length, size, id, and the path in UTF-8. Entries ascend by
path, component by component, so that a folder's entries lie together and memory does not grow with the list. Paths are
checked here; whether they can be names on the receiving device is for that device to see to.
"""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final

import attrs

from poolnet.errors import WireError
from poolnet.ids import ID_SIZE, FileId
from poolnet.limits import (
    MAX_FILE_SIZE,
    MAX_FOLDER_DEPTH,
    MAX_FOLDER_FILES,
    MAX_FOLDER_LIST_SIZE,
    MAX_FOLDER_PATH_BYTES,
    MIB,
)

#: What follows the last file in the content: the id of the list.
FOLDER_TRAILER_SIZE: Final = ID_SIZE
_MAGIC: Final = b"poolnet folder\x00\x01"
#: Kind, bytes of the path, bytes of the file, id of the file.
_HEADER: Final = struct.Struct(">BHQ32s")
_NO_ID: Final = bytes(ID_SIZE)
#: Encoded entries are handed out in blocks of about this size.
_BLOCK_SIZE: Final = 1 * MIB


class EntryKind(IntEnum):
    """What an entry of the list is."""

    FILE = 0
    EXECUTABLE = 1
    EMPTY_DIRECTORY = 2


@attrs.frozen(kw_only=True)
class FolderEntry:
    """A file or an empty directory in a folder.

    Attributes:
        path: relative to the folder, with slashes.
        size_bytes: 0 for a directory.
        file_id: of the file; 32 zero bytes for a directory.
    """

    path: str
    size_bytes: int
    file_id: FileId
    kind: EntryKind = EntryKind.FILE


def empty_directory(path: str) -> FolderEntry:
    """Return the entry of a directory with nothing in it."""
    return FolderEntry(path=path, size_bytes=0, file_id=FileId(_NO_ID), kind=EntryKind.EMPTY_DIRECTORY)


def path_order(path: str) -> bytes:
    """Return the key by which entries are sorted."""
    return path.encode().replace(b"/", b"\0")


def encode_folder_list(entries: Iterable[FolderEntry]) -> Iterator[bytes]:
    """Yield the list in blocks. `entries` ascend by `path_order`, and their paths pass `check_path_untrusted`."""
    block = bytearray(_MAGIC)
    for entry in entries:
        path = entry.path.encode()
        block += _HEADER.pack(entry.kind, len(path), entry.size_bytes, entry.file_id) + path
        if len(block) >= _BLOCK_SIZE:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def decode_folder_list_untrusted(blocks: Iterable[bytes]) -> Iterator[FolderEntry]:
    """Yield the entries of a list that comes in blocks of any size; memory is one block.

    Raises:
        WireError: it is not what `encode_folder_list` writes, or has more than the limits allow.
    """
    previous: FolderEntry | None = None
    content_size = 0
    for count, entry in enumerate(_raw_entries(_bounded(blocks)), start=1):
        content_size += entry.size_bytes
        if count > MAX_FOLDER_FILES or content_size > MAX_FILE_SIZE - FOLDER_TRAILER_SIZE:
            raise WireError("a folder of more or larger files than can be offered")
        _check_order(previous, entry)
        previous = entry
        yield entry


def check_path_untrusted(path: str) -> None:
    """Check that a path leads to a place below the folder, on every system.

    Raises:
        WireError: it is empty, too long or too deep, absolute, or has a component or character that no path here has.
    """
    if not 1 <= len(path.encode()) <= MAX_FOLDER_PATH_BYTES:
        raise WireError(f"a path has 1 to {MAX_FOLDER_PATH_BYTES} bytes")
    if "\0" in path or "\\" in path:
        raise WireError("a path has no backslash and no zero byte")
    components = path.split("/")
    if len(components) > MAX_FOLDER_DEPTH:
        raise WireError(f"a path has at most {MAX_FOLDER_DEPTH} components")
    if not {"", ".", ".."}.isdisjoint(components):
        raise WireError("a path is relative, and has no empty component, '.' or '..'")


def _bounded(blocks: Iterable[bytes]) -> Iterator[bytes]:
    total = 0
    for block in blocks:
        total += len(block)
        if total > MAX_FOLDER_LIST_SIZE:
            raise WireError(f"the list of a folder has at most {MAX_FOLDER_LIST_SIZE} bytes")
        yield block


def _raw_entries(blocks: Iterator[bytes]) -> Iterator[FolderEntry]:
    """Yield entries that are well-formed each by itself."""
    data = next(blocks, b"")
    while len(data) < len(_MAGIC) and (more := next(blocks, None)) is not None:
        data += more
    if not data.startswith(_MAGIC):
        raise WireError("not the list of a folder, or of a newer version")
    data = data[len(_MAGIC) :]
    while (more := next(blocks, None)) is not None or data:
        offset = 0
        data += more or b""
        while (end := _end_of_entry(data, offset)) <= len(data):
            yield _decode_entry(data, offset, end)
            offset = end
        if more is None and offset < len(data):
            raise WireError("the list of a folder is cut off")
        data = data[offset:]


def _end_of_entry(data: bytes, offset: int) -> int:
    """Return where an entry ends; beyond the data if that does not show yet."""
    if offset + _HEADER.size > len(data):
        return len(data) + 1
    return offset + _HEADER.size + int.from_bytes(data[offset + 1 : offset + 3], "big")


def _decode_entry(data: bytes, offset: int, end: int) -> FolderEntry:
    kind, _, size, file_id = _HEADER.unpack_from(data, offset)
    try:
        path = data[offset + _HEADER.size : end].decode()
    except UnicodeDecodeError as exc:
        raise WireError("a path is not UTF-8") from exc
    check_path_untrusted(path)
    if kind > EntryKind.EMPTY_DIRECTORY:
        raise WireError("an entry of a kind that there is not")
    if kind == EntryKind.EMPTY_DIRECTORY and (size or file_id != _NO_ID):
        raise WireError("an empty directory has neither size nor id")
    return FolderEntry(path=path, size_bytes=size, file_id=FileId(file_id), kind=EntryKind(kind))


def _check_order(previous: FolderEntry | None, entry: FolderEntry) -> None:
    if previous is None:
        return
    if path_order(previous.path) >= path_order(entry.path):
        raise WireError("the entries of a folder ascend by path, and each is there once")
    if entry.path.startswith(previous.path + "/"):
        raise WireError("a path is a file or a directory, not both")
