"""Devices whose file managers share a pool without nodes, servers or databases: offers reach everyone at once."""

import contextlib
import random
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from poolnet.clock import Hlc
from poolnet.file_manager import FileManager, open_file_manager
from poolnet.identity.keys import DeviceKey
from poolnet.ids import DeviceId, MsgId, PoolId
from poolnet.protocol.conduct import Kind
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.testing.chunk_links import FileNode, Uplink
from poolnet.wire.bodies import Body, FolderBody, MediaBody, OfferBody, RetractOfferBody, StreamBody

POOL_ID = PoolId(b"P" * 32)


class Pool:
    """What stands in for a pool: passes offers on to every device at once."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.managers: dict[DeviceId, FileManager] = {}
        self.published: list[Body] = []
        self.noted: dict[DeviceId, list[tuple[DeviceId, Kind]]] = {}  # by who noted it
        self._offers: list[tuple[DeviceId, Body, Hlc]] = []
        self._hlc = 0

    @contextlib.asynccontextmanager
    async def device(
        self, number: int, *, uplink: Uplink | None = None, is_settled: bool = False, **options: int
    ) -> AsyncIterator[FileNode]:
        """A device with a directory of its own.

        Args:
            is_settled: it knows what was published so far, and says what it offers itself.
            options: what `open_file_manager` takes.
        """
        key = DeviceKey(bytes([number]) * 32)
        home = self.home(number)
        home.mkdir(exist_ok=True)
        async with open_file_manager(home / "manager", rng=random.Random(number), **options) as files:

            async def publish(body: Body) -> MsgId:
                return self.publish(key.device_id, body)

            await files.bind(
                key,
                POOL_ID,
                publish,
                hops_to=lambda holders: self.hops_to(key.device_id, holders),
                noted=lambda peer, kind: self.noted.setdefault(key.device_id, []).append((peer, kind)),
            )
            for node, body, hlc in self._offers if is_settled else ():
                tell(files, node, body, hlc)
            self.managers[key.device_id] = files
            try:
                if is_settled:
                    await files.settle()
                yield FileNode(key.device_id, files, uplink or Uplink())
            finally:
                del self.managers[key.device_id]

    def home(self, number: int) -> Path:
        return self.tmp_path / f"device{number}"

    def hops_to(self, node: DeviceId, holders: Collection[DeviceId]) -> int | None:
        """Return how many links one device is away from the nearest of others: here nobody knows."""
        return None

    def publish(self, node: DeviceId, body: Body) -> MsgId:
        self._hlc += 1
        self.published.append(body)
        self._offers.append((node, body, Hlc(self._hlc)))
        for files in self.managers.values():
            tell(files, node, body, Hlc(self._hlc))
        return MsgId(self._hlc.to_bytes(32, "big"))


def tell(files: FileManager, node: DeviceId, body: Body, hlc: Hlc) -> None:
    """Tell a device of an offer or a retraction."""
    match body:
        case OfferBody() | FolderBody() | MediaBody():
            files.learned_offer(node, body, hlc)
        case StreamBody(nonce=nonce):
            files.learned_offer(node, body, hlc, file_id=stream_id_of(node, POOL_ID, nonce))
        case RetractOfferBody(file_id=file_id):
            files.learned_retraction(node, file_id, hlc)
