"""What streams need of the rest: the exchange of pieces (files/exchange.py), and what the pool says of a stream."""

from typing import Protocol

from poolnet.files.uses import PieceStore, RelaySink, StreamWatcher
from poolnet.ids import FileId


class StreamFollowing(Protocol):
    """Brings pieces of streams. Each stream has one watcher at a time."""

    def follow_stream(self, store: RelaySink, start: int, stop: int, watcher: StreamWatcher) -> None:
        """Fetch the pieces of a stream from `start` to before `stop`, in ascending order, as they appear, into `store`.

        An empty window fetches nothing; `watcher` is told all the same how many pieces there are.

        Raises:
            LocalError: it cannot be followed now; `stop_following` is due all the same.
        """

    def move_stream(self, stream_id: FileId, start: int, stop: int) -> None:
        """Fetch these pieces of a stream that is followed instead of those named before."""

    def stream_ended(self, stream_id: FileId, count: int) -> None:
        """Take note that a stream that is followed has so many pieces, the last of which is here."""

    def stop_following(self, stream_id: FileId) -> None:
        """Fetch no more of a stream. What is in the cache may still be given to others."""


class StreamExchange(StreamFollowing, Protocol):
    """Brings and gives pieces of streams."""

    def serve_stream(self, store: PieceStore) -> None:
        """Give the pieces of a stream of this device to whoever asks: none yet, `stream_stored` adds them.

        If `store` says that they are not what they were (`SourceUnavailable`), they are not given any more.
        """

    def stream_stored(self, stream_id: FileId, piece: int) -> None:
        """Take note that the store of a stream of this device has another piece."""

    def stop(self, file_id: FileId) -> None:
        """Neither fetch nor give this any more."""


class StreamNews(Protocol):
    """What the pool says of streams. Only the author of a stream may offer or retract it, or the whole of it."""

    def is_stream_offered(self, stream_id: FileId) -> bool:
        """Return whether its author publishes it, and has not withdrawn it."""

    def whole_of_stream(self, stream_id: FileId) -> FileId | None:
        """Return the file that the author of a stream offers as the whole of it (`OfferBody.stream_id`), or None."""
