"""What files need of a link, whoever carries it: frames without waiting, pieces with back-pressure both ways."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from poolnet.ids import DeviceId, FileId
from poolnet.wire.swarm_frames import ChunkHeader


class ReceivedPiece(Protocol):
    """A piece as it came: nothing is verified, except that its size is what the header says."""

    @property
    def header(self) -> ChunkHeader:
        """Which piece it claims to be."""

    @property
    def payload(self) -> bytes:
        """Its bytes."""


class ChunkLink(Protocol):
    """A link to one peer, as the FileManager sees it. Every method raises `LinkClosed` once the link has ended."""

    @property
    def peer(self) -> DeviceId:
        """Who is at the other end."""

    def post_frame(self, frame: Any) -> None:
        """Send a frame; never waits."""

    async def send_chunk(self, header: ChunkHeader, payload: bytes) -> None:
        """Send a piece; waits while too many are under way."""

    async def receive_chunks(self) -> Sequence[ReceivedPiece]:
        """Return the pieces that came since the last call, at least one. The last call's are consumed by this one."""

    def set_chunk_filter(self, expects: Callable[[FileId, int], bool]) -> None:
        """Drop pieces for which `expects` is false before they take up memory."""
