"""The book of offers against a plain model, and members that lie about what a file is."""

from collections.abc import Iterable
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from poolnet.clock import Hlc
from poolnet.events import OfferKind
from poolnet.files.offer_book import NodeOffer, OfferBook
from poolnet.files.offer_shares import OfferShares
from poolnet.ids import DeviceId, FileId
from poolnet.limits import MAX_OFFERS

FILE = FileId(bytes([1]) * 32)
LIST = FileId(bytes([2]) * 32)
KINDS: tuple[OfferKind, ...] = get_args(OfferKind)
PLAIN: tuple[OfferKind, ...] = ("file", "folder", "media")


def node(number: int) -> DeviceId:
    return DeviceId(bytes([number]) * 32)


def offer(number: int, hlc: int, kind: OfferKind = "file", size: int = 10, name: str = "n") -> NodeOffer:
    list_id = LIST if kind == "folder" else None
    return NodeOffer(node=node(number), name=name, size_bytes=size, hlc=Hlc(hlc), kind=kind, list_id=list_id)


offers = st.builds(
    offer, st.integers(0, 4), st.integers(1, 50), st.sampled_from(PLAIN), st.integers(1, 3), st.sampled_from("ab")
)


def book_of(said: Iterable[NodeOffer]) -> OfferBook:
    book = OfferBook()
    for each in said:
        book.offered(FILE, each)
    return book


@given(said=st.lists(offers, max_size=12, unique_by=lambda each: each.hlc), data=st.data())
def test_of_each_device_the_latest_offer_counts_in_whatever_order_they_come(
    said: list[NodeOffer], data: st.DataObject
) -> None:
    book = book_of(data.draw(st.permutations(said)))
    latest = {each.node: each for each in sorted(said, key=lambda each: each.hlc)}
    assert set(book.kinds(FILE)) == {each.kind for each in latest.values()}
    for kind in KINDS:
        of_kind = sorted((each for each in latest.values() if each.kind == kind), key=lambda each: each.hlc)
        assert book.nodes(FILE, kind) == tuple(each.node for each in of_kind)
        best = book.best(FILE, kind)
        assert (best is None) == (not of_kind)
        assert best is None or best in of_kind
    assert set(book.sizes(FILE)) == {each.size_bytes for each in latest.values()}


@given(honest=st.lists(offers, min_size=1, max_size=6), lies=st.lists(offers, max_size=6), kind=st.sampled_from(PLAIN))
def test_what_others_offer_a_file_as_neither_hides_nor_changes_an_offer(
    honest: list[NodeOffer], lies: list[NodeOffer], kind: OfferKind
) -> None:
    honest = [NodeOffer(**{**fields(each), "kind": kind}) for each in honest]
    lies = [NodeOffer(**{**fields(each), "node": node(9)}) for each in lies if each.kind != kind]
    alone, disturbed = book_of(honest), book_of([*lies, *honest])
    assert disturbed.best(FILE, kind) == alone.best(FILE, kind)
    assert disturbed.nodes(FILE, kind) == alone.nodes(FILE, kind)
    assert kind in disturbed.kinds(FILE)
    assert set(disturbed.sizes(FILE)) >= set(alone.sizes(FILE))


def fields(each: NodeOffer) -> dict[str, object]:
    return {name: getattr(each, name) for name in ("node", "name", "size_bytes", "hlc", "kind", "list_id")}


def test_without_a_kind_a_file_is_taken_for_what_most_devices_say() -> None:
    book = book_of([offer(1, 1, "folder"), offer(2, 2), offer(3, 3)])
    assert book.kinds(FILE) == ["file", "folder"]
    best = book.best(FILE)
    assert best is not None
    assert (best.kind, best.node) == ("file", node(2))


def test_who_offers_the_list_of_a_folder_as_a_file_does_not_hide_who_has_the_folder() -> None:
    book = OfferBook()
    folder = NodeOffer(
        node=node(1), name="d", size_bytes=10, hlc=Hlc(5), kind="folder", file_count=3, list_id=LIST, list_size=7
    )
    book.offered(FILE, folder)
    book.offered(LIST, offer(2, 1, size=99))
    assert book.nodes(LIST) == (node(2), node(1))
    assert sorted(size for size in book.sizes(LIST) if size is not None) == [7, 99]
    assert book.nodes(LIST, "file") == (node(2),), "the list is no offer of its own"


def test_what_others_offer_under_the_id_of_a_stream_is_a_lie() -> None:
    book = book_of([offer(2, 1), offer(1, 5, "stream", size=0)])
    assert book.kinds(FILE) == ["stream"]
    assert book.nodes(FILE) == (node(1),)
    assert book.nodes(FILE, "file") == ()
    book.retracted(FILE, node(1), Hlc(6))
    assert book.kinds(FILE) == ["file"]


# --- streams and the files that they became -----------------------------------------------------------------------


def whole(hlc: int, stream_id: bytes = b"") -> NodeOffer:
    return NodeOffer(node=node(1), name="w", size_bytes=5, hlc=Hlc(hlc), stream_id=stream_id)


@given(order=st.permutations(range(3)))
def test_a_file_that_is_offered_again_stays_the_whole_of_its_stream_in_whatever_order_that_is_heard(
    order: list[int],
) -> None:
    book = OfferBook()
    stream = NodeOffer(node=node(1), name="s", size_bytes=0, hlc=Hlc(1), kind="stream")
    said = [(LIST, stream), (FILE, whole(2, LIST)), (FILE, whole(3))]
    for number in order:
        book.offered(*said[number])
    assert book.whole_of_stream(LIST) == FILE


def test_a_file_that_is_offered_as_the_whole_of_one_stream_after_the_other_is_that_of_the_last() -> None:
    book = OfferBook()
    streams = [FileId(bytes([number]) * 32) for number in range(10, 60)]
    for number, stream_id in enumerate(streams):
        book.offered(stream_id, NodeOffer(node=node(1), name="s", size_bytes=0, hlc=Hlc(1), kind="stream"))
        book.offered(FILE, whole(number + 2, stream_id))
    assert [stream_id for stream_id in streams if book.whole_of_stream(stream_id)] == streams[-1:]
    assert len(book._wholes) == 1


# --- when there is no more room -----------------------------------------------------------------------------------


def file_id_of(number: int) -> FileId:
    return FileId(number.to_bytes(32, "big"))


def test_whoever_fills_the_book_makes_room_for_the_others_by_its_oldest_offers() -> None:
    book = OfferBook()
    for number in range(MAX_OFFERS + 5):
        assert book.offered(file_id_of(number), offer(1, number + 1))
    assert file_id_of(4) not in book
    assert book.offered(FILE, offer(2, 3)), "an honest one, however early it was made"
    assert book.nodes(FILE) == (node(2),)
    assert file_id_of(5) not in book
    assert len(list(book.files())) == MAX_OFFERS
    assert book.dropped == 6
    assert not book.offered(file_id_of(10**6), offer(1, 2)), "older than all that there is of that device"
    assert len(book.of_node(node(1))) == MAX_OFFERS - 1


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 200) | st.none()), min_size=1, max_size=300
    )
)
def test_who_has_the_most_offers_loses_the_oldest(steps: list[tuple[int, int, int | None]]) -> None:
    shares, model = OfferShares(), dict[tuple[DeviceId, FileId], int]()
    for number, file, hlc in steps:
        key = (node(number), file_id_of(file))
        if hlc is not None:
            shares.put(*key, Hlc(hlc))
            model[key] = hlc
        elif key in model:
            shares.remove(*key)
            del model[key]
        assert len(shares) == len(model)
        for each in range(4):
            assert set(shares.of_node(node(each))) == {file_id for owner, file_id in model if owner == node(each)}
        if model:
            owner, oldest = shares.first_to_go()
            counts = [sum(other == one for other, _ in model) for one, _ in model]
            assert sum(other == owner for other, _ in model) == max(counts)
            assert model[owner, oldest] == min(at for (other, _), at in model.items() if other == owner)


def test_nobody_pushes_out_what_others_have_withdrawn() -> None:
    book = OfferBook()
    book.retracted(FILE, node(2), Hlc(5))
    for number in range(MAX_OFFERS + 5):
        book.retracted(file_id_of(number), node(1), Hlc(number + 10))
    assert not book.offered(FILE, offer(2, 4)), "an old offer that somebody tells once more"
    assert book.is_withdrawn(FILE)
    assert book.offered(file_id_of(0), offer(1, 5)), "of its own the oldest is forgotten"
    assert not book.offered(file_id_of(MAX_OFFERS), offer(1, 6))
    assert sum(book.is_withdrawn(file_id_of(number)) for number in range(MAX_OFFERS + 5)) == MAX_OFFERS - 1
