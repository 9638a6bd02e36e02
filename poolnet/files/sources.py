"""Complete files on this device: hashed, served, looked after.

A file is served as long as it is what it was when it was hashed. Size and modification time are looked at now and then;
where they differ the file is hashed again, and one that has changed is given up.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import trio

from poolnet.errors import DiskFull, SourceUnavailable, StoreError
from poolnet.files.exchange import Exchange
from poolnet.ids import FileId
from poolnet.limits import MAX_FILE_SIZE, SOURCE_CHECK_INTERVAL_S
from poolnet.storage.file_table import FileTable, LocalFile
from poolnet.storage.files import run_on_disk
from poolnet.storage.hashing import FileHasher

logger = logging.getLogger(__name__)

#: Called with bytes done and bytes in all.
ProgressCallback = Callable[[int, int], None]


class Sources:
    """The complete files of one pool on this device.

    Args:
        table: where they are listed.
        exchange: where they are served.
        lost: called, once and with a reason, with a file that is not what it was. It is no longer served or listed
            in memory; `tidy_up` makes that durable.
    """

    def __init__(self, table: FileTable, exchange: Exchange, lost: Callable[[LocalFile, str], None]) -> None:
        self._table = table
        self._exchange = exchange
        self._lost = lost

    async def restore(self) -> None:
        """Serve what is listed and looks unchanged; `run_checks` sees to the rest."""
        files = list(self._table.files.values())
        changed = {file.file_id for file, _ in await run_on_disk(_find_changed, files)}
        incomplete = await run_on_disk(self._without_tree, files)
        for file in files:
            if file.file_id in incomplete:  # to be hashed again
                self._table.files[file.file_id] = attrs.evolve(file, mtime_ns=-1)
            elif file.file_id not in changed:
                self._serve(file)

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

    async def add(self, file: LocalFile) -> None:
        """List a file, durably, and serve it.

        Raises:
            StoreError: it cannot be listed; it is not served either.
        """
        earlier = self._table.files.get(file.file_id)
        self._table.files[file.file_id] = file
        try:
            await self._table.save_files()
        except StoreError:
            if earlier is None:
                del self._table.files[file.file_id]
            else:
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
            self._exchange.stop(file_id)
        await self.tidy_up(file_id)

    async def tidy_up(self, file_id: FileId) -> None:
        """Make it durable that a file is not listed any more, and remove its tree, unless it was listed again.

        Raises:
            StoreError: as `forget`.
        """
        await self._table.save_files()
        if file_id not in self._table.files and file_id not in self._table.parts:
            await run_on_disk(self._table.remove_tree, file_id)

    async def run_checks(self) -> None:
        """Look at all files every `SOURCE_CHECK_INTERVAL_S`, until cancelled."""
        while True:
            for file, reason in await run_on_disk(_find_changed, list(self._table.files.values())):
                if not self._is_listed(file):
                    continue
                if reason is not None:
                    self._give_up(file, reason)
                else:
                    await self._hash_again(file)
            await trio.sleep(SOURCE_CHECK_INTERVAL_S)

    def give_up(self, file_id: FileId, reason: str) -> None:
        """Take note that a file was found to be not what it was."""
        file = self._table.files.get(file_id)
        if file is not None:
            self._give_up(file, reason)

    async def _hash_again(self, file: LocalFile) -> None:
        """See whether a file that was written to is still the same."""
        try:
            found = await self.hash(file.path, file.name)
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
        if found.file_id != file.file_id:
            await self.tidy_up(found.file_id)
            self._give_up(file, f"{file.path} was changed since it was offered")
        else:
            await self._keep(attrs.evolve(file, mtime_ns=found.mtime_ns))

    async def _keep(self, file: LocalFile) -> None:
        self._table.files[file.file_id] = file
        self._serve(file)
        with contextlib.suppress(StoreError):  # then it is hashed once more after the next start
            await self._table.save_files()

    def _serve(self, file: LocalFile) -> None:
        self._exchange.serve(self._table.source(file), lambda reason: self._give_up(file, reason))

    def _give_up(self, file: LocalFile, reason: str) -> None:
        """Serve a file no more, because it is not what it was."""
        if self._is_listed(file):
            del self._table.files[file.file_id]
            self._exchange.stop(file.file_id)
            self._lost(file, reason)

    def _is_listed(self, file: LocalFile) -> bool:
        listed = self._table.files.get(file.file_id)
        return listed is not None and listed.path == file.path

    def _without_tree(self, files: Sequence[LocalFile]) -> set[FileId]:
        return {file.file_id for file in files if not self._table.source(file).tree.is_complete()}


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
