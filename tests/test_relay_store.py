"""Relayed files: verified before they are cached, gone when there is no room, fetched again when somebody asks."""

import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from poolnet.errors import StoreError
from poolnet.files.relay_store import RelayStore
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, TREE_FAN_OUT
from poolnet.protocol.hash_tree import TreeBuilder, TreeShape, hash_chunk
from poolnet.ranges import RangeSet
from poolnet.storage.cache_ring import CacheRing, PieceKey
from poolnet.storage.piece_store import PiecesDamaged
from poolnet.storage.tree_file import NodeCache

#: A chunk of the large files, which have the same one everywhere.
ZEROS = bytes(CHUNK_SIZE)


class Content:
    """A file somewhere else: its pieces, made when they are asked for."""

    def __init__(self, chunks: list[bytes]) -> None:
        builder = TreeBuilder()
        self.size_bytes = sum(len(chunk) for chunk in chunks)
        self.shape = TreeShape(self.size_bytes)
        hashes = {chunk: hash_chunk(chunk) for chunk in set(chunks)}
        nodes = [node for chunk in chunks for node in builder.add(hashes[chunk])]
        file_id, last = builder.finish(self.size_bytes)
        self.file_id: FileId = file_id
        self._chunks = chunks
        self._nodes = {self.shape.piece_of_node(node.height, node.index): node.data for node in [*nodes, *last]}

    def piece(self, piece: int) -> tuple[int, bytes]:
        if self.shape.is_chunk(piece):
            return piece, self._chunks[self.shape.chunk_index(piece)]
        return piece, self._nodes[piece]

    def pieces(self, *pieces: int) -> list[tuple[int, bytes]]:
        return [self.piece(piece) for piece in pieces]


def random_content(seed: int, chunk_count: int) -> Content:
    rng = random.Random(seed)
    return Content([rng.randbytes(CHUNK_SIZE) for _ in range(chunk_count - 1)] + [rng.randbytes(1000)])


def large_content() -> Content:
    """A file with a tree of two levels: piece 0 over pieces 1, 2 and 3 over chunks."""
    return Content([ZEROS] * (2 * TREE_FAN_OUT + 5))


def store_for(ring: CacheRing, content: Content, nodes: NodeCache | None = None) -> RelayStore:
    return RelayStore(ring, content.file_id, content.size_bytes, nodes=nodes or NodeCache(max_nodes=8))


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[CacheRing]:
    ring = CacheRing(tmp_path / "cache-1.ring", 8 * CHUNK_SIZE)
    yield ring
    ring.close()


@pytest.mark.parametrize("chunk_count", [1, 2, 5])
def test_what_was_stored_comes_back_exactly(ring: CacheRing, chunk_count: int) -> None:
    content = random_content(1, chunk_count)
    store = store_for(ring, content)
    every = content.pieces(*range(content.shape.piece_count))
    assert store.write_pieces(every) == [True] * len(every)
    assert store.read_pieces([piece for piece, _ in every]) == [data for _, data in every]
    assert store.held() == ((0, content.shape.piece_count),)
    assert store.take_evicted() == []


def test_what_is_not_genuine_is_not_stored(ring: CacheRing) -> None:
    content = random_content(1, 4)
    store = store_for(ring, content)
    (_, first), (_, second) = content.pieces(1, 2)
    assert store.write_pieces([(0, b"x" * len(content.piece(0)[1]))]) == [False]
    assert store.write_pieces([content.piece(0), (1, second), (2, second), (99, b""), (-1, b"")]) == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert store.held() == ((0, 1), (2, 3))
    assert RelayStore(ring, content.file_id, content.size_bytes + 1, nodes=NodeCache()).write_pieces(
        [content.piece(0)]
    ) == [False]
    assert store.write_pieces([(1, first)]) == [True]


def test_the_pieces_that_went_for_new_ones_are_told_whichever_file_they_are_of(ring: CacheRing) -> None:
    nodes = NodeCache()
    old, new = random_content(1, 4), random_content(2, 6)
    old_store, new_store = store_for(ring, old, nodes), store_for(ring, new, nodes)
    old_store.write_pieces(old.pieces(0, 1, 2, 3, 4))
    assert new_store.write_pieces(new.pieces(0, 1, 2, 3, 4)) == [True] * 5
    assert old_store.take_evicted() == []
    assert new_store.take_evicted() == [(old.file_id, 1), (old.file_id, 2)], "node 0 was in use until the last chunk"
    assert new_store.take_evicted() == []
    with pytest.raises(PiecesDamaged) as caught:
        old_store.read_pieces([3, 1, 2])
    assert caught.value.pieces == [1, 2]


def test_damage_on_disk_is_noticed_on_reading_and_mended_by_writing_again(ring: CacheRing) -> None:
    content = random_content(1, 2)
    store = store_for(ring, content)
    store.write_pieces(content.pieces(0, 1, 2))
    with ring.path.open("r+b") as file:
        file.write(bytes(3 * CHUNK_SIZE))
    with pytest.raises(PiecesDamaged) as caught:
        store.read_pieces([0, 1, 2])
    assert caught.value.pieces == [0, 1, 2]
    store.write_pieces(content.pieces(0, 1, 2))
    assert store.read_pieces([2]) == [content.piece(2)[1]]


def test_nodes_that_went_are_named_and_whatever_else_came_is_stored(ring: CacheRing) -> None:
    content = large_content()
    store = store_for(ring, content, NodeCache(max_nodes=1))
    chunk = content.shape.piece_of_chunk
    assert store.write_pieces(content.pieces(0, 1, 2, chunk(0))) == [True] * 4
    ring.forget(content.file_id)
    store.write_pieces(content.pieces(0, 1))  # node 1 is the one in memory
    with pytest.raises(PiecesDamaged) as caught:
        store.write_pieces(content.pieces(chunk(0), chunk(TREE_FAN_OUT), chunk(1), chunk(TREE_FAN_OUT + 1)))
    assert caught.value.pieces == [2]
    assert store.held() == ((0, 2), (chunk(0), chunk(2)))
    assert store.write_pieces(content.pieces(2, chunk(TREE_FAN_OUT))) == [True, True]


def test_nodes_in_memory_verify_chunks_after_they_went_from_the_ring(ring: CacheRing) -> None:
    content = random_content(1, 4)
    store = store_for(ring, content)
    store.write_pieces(content.pieces(0))
    ring.forget(content.file_id)
    assert store.write_pieces(content.pieces(1)) == [True]
    assert store.held() == ((1, 2),)


def test_the_nodes_of_any_number_of_files_take_no_more_memory_than_allowed(tmp_path: Path) -> None:
    ring = CacheRing(tmp_path / "cache-1.ring", 64 * CHUNK_SIZE)
    nodes = NodeCache(max_nodes=2)
    contents = [random_content(seed, 2) for seed in range(10)]
    stores = [store_for(ring, content, nodes) for content in contents]
    for store, content in zip(stores, contents, strict=True):
        store.write_pieces(content.pieces(0))
    for store, content in zip(stores, contents, strict=True):
        assert store.write_pieces(content.pieces(1)) == [True], "its node comes from the ring"
    assert ring.statistics().hits >= 8
    ring.close()


def test_a_cache_that_takes_nothing_is_an_error_and_says_what_went(tmp_path: Path) -> None:
    ring = CacheRing(tmp_path / "cache-1.ring", 0)
    content = random_content(1, 1)
    store = store_for(ring, content)
    assert store.write_pieces([(0, b"forged")]) == [False]
    with pytest.raises(StoreError, match="takes nothing"):
        store.write_pieces(content.pieces(0))
    assert store.take_evicted() == [(content.file_id, 0)]


class RelayMachine(RuleBasedStateMachine):
    """Three files in a ring of six slots, beside a set of the pieces that the driver believes to be here."""

    CONTENTS = tuple(random_content(seed, count) for seed, count in ((1, 1), (2, 3), (3, 6)))

    @initialize()
    def open(self) -> None:
        self.directory = TemporaryDirectory()
        self.ring = CacheRing(Path(self.directory.name) / "cache-1.ring", 6 * CHUNK_SIZE)
        nodes = NodeCache(max_nodes=1)
        self.stores = [store_for(self.ring, content, nodes) for content in self.CONTENTS]
        self.believed: set[PieceKey] = set()

    def teardown(self) -> None:
        self.ring.close()
        self.directory.cleanup()

    @rule(which=st.integers(0, 2), pieces=st.lists(st.integers(0, 6), max_size=4))
    def write(self, which: int, pieces: list[int]) -> None:
        store, content = self.stores[which], self.CONTENTS[which]
        pieces = [piece for piece in pieces if piece < content.shape.piece_count]
        try:
            assert store.write_pieces(content.pieces(*pieces)) == [True] * len(pieces)
        except PiecesDamaged:
            self.believed -= {(content.file_id, 0)}
            pieces = []  # the driver drops them all, although some may be there
        self.believed |= {(content.file_id, piece) for piece in pieces}
        self.believed -= set(store.take_evicted())

    @rule(which=st.integers(0, 2), piece=st.integers(0, 6))
    def read(self, which: int, piece: int) -> None:
        store, content = self.stores[which], self.CONTENTS[which]
        if (content.file_id, piece) in self.believed:
            assert store.read_pieces([piece]) == [content.piece(piece)[1]]

    @invariant()
    def believes_only_what_is_here(self) -> None:
        for store in self.stores:
            believed = {piece for file_id, piece in self.believed if file_id == store.file_id}
            assert believed <= set(RangeSet.from_ranges(store.held()))


RelayMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
test_a_driver_that_heeds_what_went_never_promises_what_is_gone = RelayMachine.TestCase
