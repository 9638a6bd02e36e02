"""What a link counts."""

import attrs

from poolnet.net.chunk_ways import Carrier


@attrs.frozen(kw_only=True)
class LinkStatistics:
    """Counts since the link came up; rates in bytes a second over the last few seconds, all ways together."""

    carrier: Carrier
    bytes_in: int
    bytes_out: int
    rate_in: float
    rate_out: float
    frames_in: int
    frames_out: int
    unknown_frames: int
    chunks_in: int
    chunks_out: int
    chunk_bytes_in: int
    chunk_bytes_out: int
    chunks_dropped: int
    peak_queued_frames: int
    peak_queued_chunks: int
    unacknowledged_control: int
    rtt_s: float | None
    datagram_size: int
