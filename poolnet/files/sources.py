"""Complete files on this device: hashed, served, looked after.

A file is served as long as it is what it was when it was hashed. Size and modification time are looked at now and then;
where they differ the file is hashed again, and one that has changed is given up.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import attrs
import trio

from poolnet.errors import DiskFull, SourceUnavailable, StoreError
from poolnet.files.exchange import Exchange
from poolnet.files.uses import PieceStore
from poolnet.ids import FileId
from poolnet.limits import MAX_FILE_SIZE, SOURCE_CHECK_INTERVAL_S
from poolnet.storage.file_table import FileKind, FileTable, LocalFile
from poolnet.storage.files import run_on_disk
from poolnet.storage.hashing import FileHasher

logger = logging.getLogger(__name__)

#: Files looked at in one thread hop: a few milliseconds.
_FILES_PER_HOP: Final = 500
#: In the place of a modification time: to be hashed again before it is served.
_UNVERIFIED: Final = -1

#: Called with bytes done and bytes in all.
ProgressCallback = Callable[[int, int], None]


class SourceKind(Protocol):
    """Complete files of a kind that is more than one file on disk: folders."""

    def source(self, file: LocalFile) -> PieceStore:
        """Return its pieces."""

    async def find_change(self, file: LocalFile) -> str | None:
        """Look whether it is what it was; return what happened if it is not."""


class Sources:
    """The complete files of one pool on this device.

    Args:
        table: where they are listed.
        exchange: where they are served.
        lost: called, once and with a reason, with a file that is not what it was. It is no longer served or listed
            in memory; `tidy_up` makes that durable.
        served: called with a file that is served from now on.
        is_fetched: returns whether pieces of a file are being fetched: then it is not served from what is listed.

    Attributes:
        kinds: who knows about kinds that are no plain files.
    """

    def __init__(
        self,
        table: FileTable,
        exchange: Exchange,
        lost: Callable[[LocalFile, str], None],
        served: Callable[[FileId], None],
        is_fetched: Callable[[FileId], bool] = lambda _file_id: False,
    ) -> None:
        self._table = table
        self._exchange = exchange
        self._lost = lost
        self._served = served
        self._is_fetched = is_fetched
        self.kinds: dict[FileKind, SourceKind] = {}

    async def restore(self) -> None:
        """Serve what is listed and looks unchanged; `run_checks` sees to the rest."""
        for files in _batches(list(self._table.files.values())):
            changed = {file.file_id for file, _ in await run_on_disk(_find_changed, self._plain(files))}
            incomplete = await run_on_disk(self._without_tree, files)
            for file in files:
                if file.file_id not in incomplete | changed:
                    self._serve(file)
                elif file.kind in self.kinds:
                    self._give_up(file, f"what poolnet keeps about {file.path} is damaged; offer it again")
                elif file.file_id in incomplete:  # to be hashed again
                    self._table.files[file.file_id] = attrs.evolve(file, mtime_ns=_UNVERIFIED)

    async def hash(self, path: Path, name: str, on_progress: ProgressCallback | None = None) -> LocalFile:
        """Find the id of a file and keep its tree; cancelling leaves nothing behind.

        Raises:
            SourceUnavailable: it cannot be read, or changed while it was read.
            StoreError: its tree cannot be kept.
        """
        hasher = await run_on_disk(FileHasher, path, self._table.new_tree_path())
        with hasher:
            if hasher.size_bytes > MAX_FILE_SIZE:
                raise SourceUnavailable(f"{path} is too large; a file has at most {MAX_FILE_SIZE} bytes")
            while await run_on_disk(hasher.step):
                if on_progress is not None:
                    on_progress(hasher.done_bytes, hasher.size_bytes)
            file_id = await run_on_disk(hasher.finish, self._table.tree_path)
        if on_progress is not None:
            on_progress(hasher.size_bytes, hasher.size_bytes)
        return LocalFile(
            file_id=file_id,
            name=name,
            size_bytes=hasher.size_bytes,
            path=path,
            mtime_ns=hasher.mtime_ns,
            is_own=True,
        )

    async def recognise(self, path: Path, name: str, file_id: FileId) -> LocalFile | None:
        """Return the file at `path` if it has that id, without listing it; its tree is kept then.

        Raises:
            SourceUnavailable, StoreError: as `hash`.
        """
        found = await self.hash(path, name)
        if found.file_id == file_id:
            return found
        if not self._table.is_listed(found.file_id):
            await run_on_disk(self._table.remove_tree, found.file_id)
        return None

    async def add(self, file: LocalFile) -> None:
        """List a file, durably, and serve it. Cancelling it before it is listed leaves nothing.

        Raises:
            StoreError: it cannot be listed; it is not served either.
        """
        earlier = self._table.files.get(file.file_id)
        self._table.files[file.file_id] = file
        try:
            await self._table.save_files()
        except BaseException:  # cancelled as well: it was not listed
            if self._is_listed(file) and earlier is None:
                del self._table.files[file.file_id]
            elif self._is_listed(file) and earlier is not None:
                self._table.files[file.file_id] = earlier
            raise
        if self._is_listed(file):
            self._serve(file)

    async def forget(self, file_id: FileId) -> None:
        """Serve and list a file no more, durably. The file itself stays.

        Raises:
            StoreError: that cannot be written; the file comes back with the next start.
        """
        if self._table.files.pop(file_id, None) is not None:
            self._stop(file_id)
        await self.tidy_up(file_id)

    async def tidy_up(self, file_id: FileId) -> None:
        """Make it durable that a file is not listed any more, and remove its tree, unless it was listed again.

        Raises:
            StoreError: as `forget`.
        """
        await self._table.save_files()
        if not self._table.is_listed(file_id):
            await run_on_disk(self._table.remove_tree, file_id)

    async def run_checks(self) -> None:
        """Look at all files every `SOURCE_CHECK_INTERVAL_S`, until cancelled."""
        while True:
            for files in _batches(list(self._table.files.values())):
                for file, reason in await run_on_disk(_find_changed, self._plain(files)):
                    await self._changed(file, reason)
                for file in files:
                    if file.kind in self.kinds and self._is_listed(file):
                        reason = await self.kinds[file.kind].find_change(file)
                        if reason is not None:
                            self._give_up(file, reason)
            await trio.sleep(SOURCE_CHECK_INTERVAL_S)

    def serve_again(self, file_id: FileId) -> None:
        """Serve a file that is listed, after its pieces were fetched, for nothing or for a copy."""
        file = self._table.files.get(file_id)
        if file is not None and file.mtime_ns != _UNVERIFIED:
            self._serve(file)

    def give_up(self, file_id: FileId, reason: str) -> None:
        """Take note that a file was found to be not what it was."""
        file = self._table.files.get(file_id)
        if file is not None:
            self._give_up(file, reason)

    async def _changed(self, file: LocalFile, reason: str | None) -> None:
        if not self._is_listed(file):
            return
        if reason is not None:
            self._give_up(file, reason)
        else:
            await self._hash_again(file)

    def _plain(self, files: Sequence[LocalFile]) -> list[LocalFile]:
        return [file for file in files if file.kind not in self.kinds]

    async def _hash_again(self, file: LocalFile) -> None:
        """See whether a file that was written to is still the same."""
        try:
            found = await self.recognise(file.path, file.name, file.file_id)
        except SourceUnavailable as exc:
            self._give_up(file, str(exc))
            return
        except StoreError as exc:
            logger.warning("cannot hash an offered file again: %s", exc.code)
            if not isinstance(exc, DiskFull):
                self._give_up(file, str(exc))
            return
        if not self._is_listed(file):
            return
        if found is None:
            self._give_up(file, f"{file.path} was changed since it was offered")
        else:
            await self._keep(attrs.evolve(file, mtime_ns=found.mtime_ns))

    async def _keep(self, file: LocalFile) -> None:
        self._table.files[file.file_id] = file
        self._serve(file)
        with contextlib.suppress(StoreError):  # then it is hashed once more after the next start
            await self._table.save_files()

    def _serve(self, file: LocalFile) -> None:
        kind = self.kinds.get(file.kind)
        source = self._table.source(file) if kind is None else kind.source(file)
        if self._is_fetched(file.file_id) and self._exchange.size_here(file.file_id) is None:
            self._exchange.stop(file.file_id)  # of what size it is was only a claim: now it is known
        self._exchange.serve(source, lambda reason: self._give_up(file, reason))
        self._served(file.file_id)

    def _give_up(self, file: LocalFile, reason: str) -> None:
        """Serve a file no more, because it is not what it was."""
        if self._is_listed(file):
            del self._table.files[file.file_id]
            self._stop(file.file_id)
            self._lost(file, reason)

    def _stop(self, file_id: FileId) -> None:
        """Serve a file no more; a download of it goes on, and gives to others what it has."""
        if not self._is_fetched(file_id):
            self._exchange.stop(file_id)

    def _is_listed(self, file: LocalFile) -> bool:
        listed = self._table.files.get(file.file_id)
        return listed is not None and listed.path == file.path

    def _without_tree(self, files: Sequence[LocalFile]) -> set[FileId]:
        return {file.file_id for file in files if not self._table.tree(file.file_id, file.size_bytes).is_complete()}


def _batches(files: Sequence[LocalFile]) -> Iterator[Sequence[LocalFile]]:
    """Yield files, as many at a time as are looked at in one call in a thread."""
    for start in range(0, len(files), _FILES_PER_HOP):
        yield files[start : start + _FILES_PER_HOP]


def _find_changed(files: Sequence[LocalFile]) -> list[tuple[LocalFile, str | None]]:
    """Return the files that do not look as they did, with a reason where it is certain that they changed."""
    changed: list[tuple[LocalFile, str | None]] = []
    for file in files:
        try:
            found = file.path.stat()
        except OSError as exc:
            changed.append((file, f"{file.path} is not there any more: {exc.strerror or exc}"))
            continue
        if found.st_size != file.size_bytes:
            changed.append((file, f"{file.path} has another size than when it was offered"))
        elif found.st_mtime_ns != file.mtime_ns:
            changed.append((file, None))
    return changed
