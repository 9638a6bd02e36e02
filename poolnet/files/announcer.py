"""Tells a pool what this device offers, and that it does not any more."""

from collections.abc import Awaitable, Callable

from poolnet.errors import WireError
from poolnet.files.offer_book import OfferBook
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.storage.file_table import FileTable, LocalFile
from poolnet.wire.bodies import Body, OfferBody, RetractOfferBody, decode_body_untrusted, encode_body

#: Signs, stores and sends a message to the pool.
Publish = Callable[[Body], Awaitable[MsgId]]


class Announcer:
    """Speaks for the files of this device, once it is bound to a pool; before, it is silent.

    Args:
        table: the files.
        book: what the pool knows of them.
    """

    def __init__(self, table: FileTable, book: OfferBook) -> None:
        self._table = table
        self._book = book
        self._node: DeviceId | None = None
        self._publish: Publish | None = None

    def bind(self, node: DeviceId, publish: Publish) -> None:
        """Speak as `node` from now on."""
        self._node, self._publish = node, publish

    def is_offered(self, file_id: FileId) -> bool:
        """Return whether the pool knows that this device offers a file."""
        return self._node is not None and self._book.by_node(file_id, self._node) is not None

    async def offer(self, file: LocalFile) -> None:
        """Tell the pool of a file.

        Raises:
            StoreError: the message cannot be stored.
        """
        if self._publish is not None and (body := _offer_body(file)) is not None:
            await self._publish(body)

    async def retract(self, file_id: FileId) -> None:
        """Withdraw this device's offer of a file, if the pool knows one, and that of the stream that became it.

        Raises:
            StoreError: the message cannot be stored.
        """
        if self._publish is None or self._node is None:
            return
        offer = self._book.by_node(file_id, self._node)
        if offer is not None and offer.stream_id:  # first: without its whole it would count as one that goes on
            await self.retract(FileId(offer.stream_id))
        if offer is not None:
            await self._publish(RetractOfferBody(file_id=file_id))

    async def settle(self) -> None:
        """Offer what the pool does not know of, and withdraw what is not here any more.

        Streams are not files; whoever publishes them says when they end.

        Raises:
            StoreError: the messages cannot be stored.
        """
        assert self._node is not None, "bind comes first"
        for file_id in self._book.of_node(self._node):
            file = self._table.files.get(file_id)
            offer = self._book.by_node(file_id, self._node)
            if (file is None or not file.is_own) and offer is not None and offer.kind != "stream":
                await self.retract(file_id)
        own = [file for file in self._table.files.values() if file.is_own and file.kind != "list"]
        for file in [file for file in own if not self.is_offered(file.file_id)]:
            await self.offer(file)


def stored_body(body: Body) -> bytes:
    """Return what a `LocalFile` keeps of the message that offers it: nothing if its other fields say it all."""
    return b"" if isinstance(body, OfferBody) and not body.stream_id else encode_body(body)


def _offer_body(file: LocalFile) -> Body | None:
    """Return what to tell of a file; None if that was written by another version."""
    if not file.body:
        return OfferBody(file_id=file.file_id, name=file.name, size=file.size_bytes)
    try:
        return decode_body_untrusted(OfferBody.KIND if file.kind == "file" else file.kind, file.body)
    except WireError:
        return None
