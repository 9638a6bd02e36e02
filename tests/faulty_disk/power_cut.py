"""What a disk may hold after the power has gone, made up from the log of what was done to it.

What was synced is there. Of what was written since, any part may be: nothing, all, or some writes and not others, the
last one torn. Names (creations, renames, removals, links) are a thing of their directory: they are there once *it* was
synced; until then any first part of them is. A sync that failed has lost what it was to bring to the disk, for good,
although everybody who reads the file still sees it (as Linux does it).
"""

import os
import random
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from faulty_disk.shim import Kind

_RECORD: Final = struct.Struct("<IIIIQQQQ")
#: What a disk writes as a whole.
_SECTOR: Final = 512
_NAMES: Final = Kind.CREATE | Kind.RENAME | Kind.UNLINK | Kind.LINK | Kind.MAKE_DIRECTORY | Kind.REMOVE_DIRECTORY
_DIRECTORY: Final = -1


@attrs.frozen
class Operation:
    """One record of the log. Which fields count depends on the kind."""

    kind: Kind
    path: str
    second_path: str
    inode: int
    offset: int
    size: int
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Choice:
    """What survives of that which was not synced: a share of the names and of the writes, drawn from a seed."""

    keeps_names: float = 0
    keeps_writes: float = 0
    seed: int = 0


#: The least that there can be; names without content; all; and what is in between.
LEAST, NAMES, MOST = Choice(), Choice(keeps_names=1), Choice(keeps_names=1, keeps_writes=1)


def read_log(path: Path) -> list[Operation]:
    """Return what is in a log; a record that a kill cut off is not."""
    content = path.read_bytes()
    operations, place = [], 0
    while place + _RECORD.size <= len(content):
        kind, path_size, second_size, _, inode, offset, size, data_size = _RECORD.unpack_from(content, place)
        place += _RECORD.size
        parts = []
        for part_size in (path_size, second_size, data_size):
            parts.append(content[place : place + part_size])
            place += part_size
        name, second, data = parts
        operations.append(Operation(Kind(kind), name.decode(), second.decode(), inode, offset, size, data))
    return operations


@attrs.define
class _File:
    durable: bytearray = attrs.field(factory=bytearray)
    pending: list[Operation] = attrs.field(factory=list)


class Disk:
    """A disk as its operations have left it: what is on it, and what is still on its way."""

    def __init__(self) -> None:
        self._files: list[_File] = []
        self._by_inode: dict[int, int] = {}  # the file that has the number now; it had others before
        self._names: dict[str, int] = {}  # as programs see them: a file, or a directory
        self._durable_names: dict[str, int] = {}
        self._pending_names: list[tuple[Operation, int]] = []  # with the file that it is about

    def apply(self, operation: Operation) -> None:
        """Take note of one more operation."""
        kind = operation.kind
        if kind in _NAMES:
            number = self._file_of_name(operation)
            _change_names(self._names, operation, number)
            self._pending_names.append((operation, number))
        elif kind == Kind.SYNC_DIRECTORY:
            self._sync_names(operation.path)
        elif kind == Kind.SYNC:
            file = self._file(operation.inode)
            for pending in file.pending:
                _change_content(file.durable, pending)
            file.pending.clear()
        elif kind == Kind.FAILED_SYNC:
            self._file(operation.inode).pending.clear()
        elif kind in Kind.WRITE | Kind.TRUNCATE | Kind.ALLOCATE:
            self._file(operation.inode).pending.append(operation)

    def write_out(self, root: Path, target: Path, choice: Choice) -> None:
        """Make up a disk that a power cut may leave now: what was below `root` is below `target` then."""
        rng = random.Random(choice.seed)
        names = dict(self._durable_names)
        kept = (
            len(self._pending_names)
            if choice.keeps_names >= 1
            else round(len(self._pending_names) * rng.random() * choice.keeps_names)
        )
        for operation, number in self._pending_names[:kept]:
            _change_names(names, operation, number)
        target.mkdir(parents=True, exist_ok=True)
        contents = [_survivor(file, choice, rng) for file in self._files]
        written: dict[int, Path] = {}
        for name, number in sorted(names.items()):
            place = target / os.path.relpath(name, root)
            if not place.parent.is_dir():
                continue  # the directory that it is in was lost
            if number == _DIRECTORY:
                place.mkdir(mode=0o700, exist_ok=True)
            elif number in written:
                os.link(written[number], place)
            else:
                place.write_bytes(contents[number])
                place.chmod(0o600)
                written[number] = place

    def _file(self, inode: int) -> _File:
        return self._files[self._by_inode[inode]]

    def _file_of_name(self, operation: Operation) -> int:
        if operation.kind == Kind.CREATE:
            self._files.append(_File())
            self._by_inode[operation.inode] = len(self._files) - 1
            return len(self._files) - 1
        if operation.kind == Kind.MAKE_DIRECTORY:
            return _DIRECTORY
        return self._names[operation.path]

    def _sync_names(self, directory: str) -> None:
        rest = []
        for operation, number in self._pending_names:
            if directory in {os.path.dirname(operation.path), os.path.dirname(operation.second_path)}:
                _change_names(self._durable_names, operation, number)
            else:
                rest.append((operation, number))
        self._pending_names = rest


def cut_power(operations: Iterable[Operation], root: Path, target: Path, choice: Choice) -> None:
    """Make up, below `target`, the disk after these operations and a power cut."""
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    disk.write_out(root, target, choice)


def _change_names(names: dict[str, int], operation: Operation, number: int) -> None:
    match operation.kind:
        case Kind.CREATE | Kind.MAKE_DIRECTORY:
            names[operation.path] = number
        case Kind.LINK:
            names[operation.second_path] = number
        case Kind.UNLINK | Kind.REMOVE_DIRECTORY:
            names.pop(operation.path, None)
        case Kind.RENAME:
            _rename(names, operation.path, operation.second_path, number)


def _rename(names: dict[str, int], old: str, new: str, number: int) -> None:
    for name in [name for name in names if name.startswith(f"{old}/")]:
        names[new + name[len(old) :]] = names.pop(name)
    names.pop(old, None)
    names[new] = number


def _change_content(content: bytearray, operation: Operation) -> None:
    if operation.kind == Kind.WRITE:
        _grow(content, operation.offset)
        content[operation.offset : operation.offset + len(operation.data)] = operation.data
    elif operation.kind == Kind.TRUNCATE:
        del content[operation.size :]
        _grow(content, operation.size)
    else:
        _grow(content, operation.size)


def _grow(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))


def _survivor(file: _File, choice: Choice, rng: random.Random) -> bytes:
    """Return what is left of a file."""
    content = bytearray(file.durable)
    for operation in file.pending:
        if choice.keeps_writes >= 1:
            _change_content(content, operation)
        elif choice.keeps_writes and rng.random() < choice.keeps_writes:
            _change_content(content, _torn(operation, rng))
    return bytes(content)


def _torn(operation: Operation, rng: random.Random) -> Operation:
    """Return a write of which, now and then, only the first sectors arrive."""
    if operation.kind != Kind.WRITE or rng.random() < 0.5:
        return operation
    return attrs.evolve(operation, data=operation.data[: rng.randrange(len(operation.data) + 1) // _SECTOR * _SECTOR])
