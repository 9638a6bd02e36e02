"""Pictures that others show, kept in a directory of bounded size: the oldest go first.

The directory is the list: a picture is called by its id and a suffix that says what it is, and nothing else is kept of
it. So it survives restarts and crashes without a store of its own. What is being fetched is beside it, as ``….part``.
The age of a picture is the stamp of its offer, or when it came as long as nobody said so.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from poolnet.clock import Hlc, make_hlc
from poolnet.errors import SourceUnavailable, WireError
from poolnet.ids import FileId, decode_id_untrusted, encode_id
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import TreeBuilder, hash_chunk
from poolnet.storage.copying import clone_file
from poolnet.storage.durable import make_private_directory, store_errors
from poolnet.storage.files import publish_without_overwrite
from poolnet.storage.held_files import create_beside, remove_left_over

#: Suffixes that a picture keeps. With any other it gets none, so that opening it never runs it (.exe, .svg, .html).
PICTURE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".avif", ".heic", ".heif", ".jxl", ".tif", ".tiff"}
)
_PART: Final = ".part"
#: What made way for a new part.
_DAMAGED: Final = ".part.damaged"
_NEW_FILE: Final = 0o666  # less what the user's umask takes away, as for any download


@attrs.frozen(kw_only=True)
class KeptPicture:
    """A picture in the cache."""

    path: Path
    size_bytes: int
    hlc: Hlc


class MediaCache:
    """The pictures of one pool. Says what has to go, and removes it when told: somebody may be served from it.

    `load`, `add` and `remove` use the disk and are for threads; the rest costs nothing.

    Args:
        directory: its own; made if it is not there.
        size_bytes: of all pictures together; 0 keeps none.
    """

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.directory = directory
        self._kept: dict[FileId, KeptPicture] = {}

    def __contains__(self, file_id: FileId) -> bool:
        return file_id in self._kept

    def __iter__(self) -> Iterator[FileId]:
        return iter(tuple(self._kept))

    @property
    def total_bytes(self) -> int:
        """The size of all that is kept."""
        return sum(kept.size_bytes for kept in tuple(self._kept.values()))

    def load(self) -> set[FileId]:
        """Find what is there from earlier; return the pictures of which there is only a part.

        Raises:
            StoreError: the directory cannot be made or read.
        """
        make_private_directory(self.directory)
        parts = set()
        remove_left_over(self.directory, is_ours=True)
        with store_errors("read", self.directory):
            for path in self.directory.iterdir():
                if path.name.endswith(_DAMAGED):
                    path.unlink()
                    continue
                is_part = path.suffix == _PART
                file_id = _id_of(path.with_suffix("") if is_part else path)
                if file_id is not None and is_part:
                    parts.add(file_id)
                elif file_id is not None:
                    self._find(file_id, path)
        return parts.difference(self._kept)

    def path_of(self, file_id: FileId) -> Path | None:
        """Return where a picture is, or None."""
        kept = self._kept.get(file_id)
        return None if kept is None else kept.path

    def place(self, file_id: FileId, name: str) -> Path:
        """Return where a picture goes that its author calls `name`."""
        suffix = Path(name).suffix.lower()
        return self.directory / f"{encode_id(file_id)}{suffix if suffix in PICTURE_SUFFIXES else ''}"

    def add(self, file_id: FileId, path: Path, hlc: Hlc) -> int:
        """Keep a picture that is complete at its `place`, unless it is larger than all of the cache; return its size.

        Raises:
            StoreError: it is not there.
        """
        with store_errors("look at", path):
            size_bytes = path.stat().st_size
        if size_bytes <= self.size_bytes:
            self._kept[file_id] = KeptPicture(path=path, size_bytes=size_bytes, hlc=hlc)
        return size_bytes

    def date(self, file_id: FileId, hlc: Hlc) -> None:
        """Take note of when a picture was offered, if it is here."""
        if (kept := self._kept.get(file_id)) is not None:
            self._kept[file_id] = attrs.evolve(kept, hlc=hlc)

    def surplus(self) -> list[FileId]:
        """Return what has to go, the oldest first, so that the rest fits."""
        too_much = self.total_bytes - self.size_bytes
        gone = []
        for file_id, kept in sorted(self._kept.items(), key=lambda item: (item[1].hlc, item[0])):
            if too_much <= 0:
                break
            gone.append(file_id)
            too_much -= kept.size_bytes
        return gone

    def remove(self, file_id: FileId) -> None:
        """Remove a picture, and what there is of one that was not fetched to its end.

        Raises:
            StoreError: the system refused; what is there still counts after the next start.
        """
        self._kept.pop(file_id, None)
        with store_errors("clean up", self.directory):
            for path in self.directory.glob(f"{encode_id(file_id)}*"):
                path.unlink(missing_ok=True)

    def _find(self, file_id: FileId, path: Path) -> None:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return  # not from here
        if file_id in self._kept:  # under two names; one will do
            path.unlink()
            return
        hlc = make_hlc(max(0, found.st_mtime_ns // 1_000_000))
        self._kept[file_id] = KeptPicture(path=path, size_bytes=found.st_size, hlc=hlc)


def copy_verified(source: Path, file_id: FileId, target: Path) -> None:
    """Make `target` a copy of a file (of a few MiB) that is whole, genuine and durable; never over something.

    Raises:
        SourceUnavailable: the file cannot be read, or is not `file_id`.
        OutputExists: something is at `target`.
        StoreError: it cannot be written.
    """
    with store_errors("write", target):
        part, descriptor = create_beside(target, _NEW_FILE)
        try:
            _clone(source, descriptor)
            if _id_of_content(descriptor) != file_id:
                raise SourceUnavailable(f"{source} is not what it was")
            os.fsync(descriptor)
            publish_without_overwrite(part, target)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            os.close(descriptor)


def _clone(source: Path, descriptor: int) -> None:
    try:
        clone_file(source, descriptor)
    except FileNotFoundError as exc:
        raise SourceUnavailable(f"{source} is not there any more") from exc


def _id_of_content(descriptor: int) -> FileId:
    builder, offset = TreeBuilder(), 0
    while chunk := os.pread(descriptor, CHUNK_SIZE, offset):
        builder.add(hash_chunk(chunk))
        offset += len(chunk)
    return builder.finish(offset)[0]


def _id_of(path: Path) -> FileId | None:
    """Return whose picture a file is by its name; None if it is none of the cache's."""
    if path.suffix and path.suffix not in PICTURE_SUFFIXES:
        return None
    try:
        file_id = FileId(decode_id_untrusted(path.stem))
    except WireError:
        return None
    return file_id if encode_id(file_id) == path.stem else None
