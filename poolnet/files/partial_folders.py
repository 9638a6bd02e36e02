"""Parts of folders that were fetched on purpose: what is whole of them is served on, as long as it is what it was.

Of a part those chunks can be given to others that lie in its files altogether; what was fetched of others beside them
is not kept. Every piece is verified when it is read; a part in which one is not what it was is served no more. Of each
folder one part is served, the last one, unless all of it is here.
"""

import logging
from collections.abc import Awaitable, Callable

from poolnet.errors import PoolnetError, StoreError
from poolnet.files.exchange import Exchange
from poolnet.files.uses import PieceStore
from poolnet.ids import FileId
from poolnet.ranges import Ranges
from poolnet.storage.file_table import FileTable, LocalFile

logger = logging.getLogger(__name__)

#: Returns the pieces of a part, and which of them there are.
OpenPart = Callable[[LocalFile], Awaitable[tuple[PieceStore, Ranges]]]


class PartialFolders:
    """The parts of folders of one pool on this device, listed in `FileTable.partials`.

    Args:
        table: where they are listed.
        exchange: where they are served.
        open_part: finds out what is whole.
    """

    def __init__(self, table: FileTable, exchange: Exchange, open_part: OpenPart) -> None:
        self._table = table
        self._exchange = exchange
        self._open_part = open_part
        self._opened: dict[FileId, tuple[PieceStore, Ranges]] = {}
        self._served: set[FileId] = set()

    async def restore(self) -> None:
        """Serve what is listed, and forget what cannot be served any more.

        Raises:
            StoreError: the list cannot be written.
        """
        for file in list(self._table.partials.values()):
            try:
                if file.file_id in self._table.files:
                    raise StoreError("all of that folder is here")
                self._opened[file.file_id] = await self._open_part(file)
            except PoolnetError as exc:
                logger.info("a part of a folder is served no more: %s", exc.code)
                await self.forget(file.file_id)
            else:
                self.serve_again(file.file_id)

    async def add(self, file: LocalFile) -> None:
        """List a part, durably; `serve_again` serves it.

        Raises:
            StoreError: it cannot be listed, or read.
        """
        self._opened[file.file_id] = await self._open_part(file)
        self._table.partials[file.file_id] = file
        await self._table.save_partials()

    def serve_again(self, file_id: FileId) -> None:
        """Serve a part that is listed, unless all of the folder is here."""
        opened = self._opened.get(file_id)
        if opened is not None and file_id not in self._table.files:
            self._served.add(file_id)
            self._exchange.serve(opened[0], lambda reason: self._lost(file_id, reason), held=opened[1])

    def give_way(self, file_id: FileId) -> None:
        """Serve a part no more for now: more of the folder is fetched, for this device or on its way to others."""
        if file_id in self._served:
            self._served.discard(file_id)
            self._exchange.stop(file_id)

    def drop(self, file_id: FileId) -> None:
        """Forget a part, as far as memory goes: all of the folder is here, and served by others."""
        self._served.discard(file_id)
        self._opened.pop(file_id, None)
        self._table.partials.pop(file_id, None)

    async def forget(self, file_id: FileId) -> None:
        """Serve and list a part no more, durably. Its files stay.

        Raises:
            StoreError: that cannot be written; it comes back with the next start.
        """
        self.give_way(file_id)
        self._opened.pop(file_id, None)
        if self._table.partials.pop(file_id, None) is not None:
            await self._table.save_partials()

    def _lost(self, file_id: FileId, reason: str) -> None:
        logger.info("a part of a folder is served no more: it was changed")
        logger.debug("%s", reason)
        self.drop(file_id)
