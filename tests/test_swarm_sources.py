"""What a download knows of its sources, kept up to date piece by piece, against sets that are made anew each time."""

from hypothesis import given
from hypothesis import strategies as st

from poolnet.ids import DeviceId, FileId
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_pace import Pace
from poolnet.protocol.swarm_source import Source
from poolnet.ranges import RangeSet

CHUNKS = 40

pieces_of_file = st.sets(st.integers(0, CHUNKS), min_size=1, max_size=CHUNKS).map(RangeSet.of)
events = st.lists(
    st.tuples(
        st.sampled_from(["learn", "learn", "forget", "store", "stall", "recover"]), st.integers(0, 2), pieces_of_file
    ),
    max_size=40,
)


def apply(download: FileDownload, source: Source, what: str, pieces: RangeSet) -> None:
    match what:
        case "learn":
            download.learn(source, pieces.to_ranges())
        case "forget":
            download.forget(source, pieces.to_ranges())
        case "store":
            for piece in sorted(pieces):
                if piece in download.open:
                    download.store(piece)
        case "stall":
            source.pace.is_stalled = True
            download.uncount(source)
        case "recover":
            source.pace.is_stalled = False
            download.count(source)


def held_by_partial_holders(download: FileDownload) -> set[int]:
    return {piece for source in download.sources.values() if source.is_counted for piece in source.has}


@given(events)
def test_what_is_rare_and_useful_follows_from_who_has_what(steps: list[tuple[str, int, RangeSet]]) -> None:
    download = FileDownload(FileId(bytes(32)), CHUNKS * CHUNK_SIZE, (), cursor=0)
    sources = [download.add_source(DeviceId(bytes([number]) * 32), Pace()) for number in range(3)]
    for what, number, pieces in steps:
        apply(download, sources[number], what, pieces)
        held = held_by_partial_holders(download)
        assert set(download.rare) == {piece for piece in download.open if piece not in held}
        for source in sources:
            if source.is_counted:
                assert set(source.useful) == {piece for piece in download.open if piece in source.has}
