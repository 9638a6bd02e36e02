"""The hash tree of a file: shapes, verification, building in one pass."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MAX_FILE_SIZE, TREE_FAN_OUT
from poolnet.protocol import hash_tree
from poolnet.protocol.hash_tree import (
    OpenShape,
    TreeBuilder,
    TreeShape,
    expected_hash,
    file_id_of,
    hash_chunk,
    hash_node,
    piece_is_genuine,
    shape_of,
)
from poolnet.ranges import RangeSet


def build(chunks: list[bytes]) -> tuple[TreeShape, FileId, dict[int, bytes]]:
    """Return the shape, id and all pieces of the file that `chunks` are."""
    size = sum(len(chunk) for chunk in chunks)
    shape, builder = TreeShape(size), TreeBuilder()
    nodes = [node for chunk in chunks for node in builder.add(hash_chunk(chunk))]
    file_id, rest = builder.finish(size)
    pieces = {shape.piece_of_node(node.height, node.index): node.data for node in nodes + rest}
    assert sorted(pieces) == list(range(shape.node_count))
    return shape, file_id, pieces | {shape.piece_of_chunk(index): chunk for index, chunk in enumerate(chunks)}


def genuine(shape: TreeShape, file_id: FileId, pieces: dict[int, bytes], piece: int, data: bytes) -> bool:
    parent = shape.parent(piece)
    return piece_is_genuine(shape, file_id, piece, data, parent_data=None if parent is None else pieces[parent[0]])


@pytest.fixture
def small_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of many levels from few, tiny chunks."""
    monkeypatch.setattr(hash_tree, "CHUNK_SIZE", 3)
    monkeypatch.setattr(hash_tree, "TREE_FAN_OUT", 4)


@pytest.mark.parametrize("chunk_count", [1, 2, 3, 4, 5, 15, 16, 17, 20, 63, 64, 65, 257])
@pytest.mark.usefixtures("small_tree")
def test_every_piece_of_a_built_tree_is_genuine(chunk_count: int) -> None:
    rng = Random(chunk_count)
    chunks = [rng.randbytes(3) for _ in range(chunk_count - 1)] + [rng.randbytes(2)]
    shape, file_id, pieces = build(chunks)
    assert len(pieces) == shape.piece_count
    for piece, data in pieces.items():
        assert genuine(shape, file_id, pieces, piece, data)
        assert shape.piece_size(piece) == len(data)


@pytest.mark.parametrize("chunk_count", [1, 2, 5, 17, 65])
@pytest.mark.usefixtures("small_tree")
def test_a_changed_cut_or_misplaced_piece_is_not_genuine(chunk_count: int) -> None:
    rng = Random(chunk_count)
    shape, file_id, pieces = build([rng.randbytes(3) for _ in range(chunk_count)])
    for piece, data in pieces.items():
        assert not genuine(shape, file_id, pieces, piece, data[:-1])
        assert not genuine(shape, file_id, pieces, piece, data + b"x")
        assert not genuine(shape, file_id, pieces, piece, bytes([data[0] ^ 1]) + data[1:])
        other = (piece + 1) % shape.piece_count
        if other != piece:
            assert not genuine(shape, file_id, pieces, other, data)


@pytest.mark.usefixtures("small_tree")
def test_pieces_that_the_file_does_not_have_and_missing_parents_are_not_genuine() -> None:
    shape, file_id, pieces = build([b"abc"] * 5)
    assert not piece_is_genuine(shape, file_id, shape.piece_count, b"abc", parent_data=pieces[0])
    assert not piece_is_genuine(shape, file_id, -1, b"abc", parent_data=pieces[0])
    assert not piece_is_genuine(shape, file_id, 1, pieces[1], parent_data=None)


@pytest.mark.usefixtures("small_tree")
@given(chunk_count=st.integers(0, 400))
def test_parents_and_children_agree_and_nodes_lie_without_gaps(chunk_count: int) -> None:
    shape = TreeShape(3 * chunk_count)
    offset = 0
    seen = [0] if shape.piece_count else []
    for node in range(shape.node_count):
        assert shape.node_offset(node) == offset
        offset += shape.piece_size(node)
        for slot, child in enumerate(shape.children(node)):
            assert shape.parent(child) == (node, slot)
            assert child > node
            seen.append(child)
    assert seen == list(range(shape.piece_count))
    assert offset == shape.tree_size_bytes


@settings(max_examples=30)
@given(size=st.integers(0, 3_000_000_000))
def test_chunks_cover_the_file_exactly(size: int) -> None:
    shape = TreeShape(size)
    if size:
        last = shape.piece_count - 1
        assert shape.chunk_offset(shape.chunk_index(last)) + shape.piece_size(last) == size
        assert 0 < shape.piece_size(last) <= CHUNK_SIZE
    assert shape.piece_of_chunk(0) == shape.node_count


@given(st.integers(0, 3 * TREE_FAN_OUT), st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 2000)), max_size=3))
def test_with_ancestors_adds_every_node_above_and_nothing_else(chunk_count: int, runs: list[tuple[int, int]]) -> None:
    shape = TreeShape(chunk_count * CHUNK_SIZE)
    pieces = RangeSet((start, start + length) for start, length in runs).intersection(((0, shape.piece_count),))
    expected = set(pieces)
    for piece in pieces:
        while (parent := shape.parent(piece)) is not None:
            piece = parent[0]
            expected.add(piece)
    assert set(shape.with_ancestors(pieces)) == expected


@pytest.mark.parametrize("chunk_count", [1, 2, 4, 5, 16, 17, 37])
@pytest.mark.usefixtures("small_tree")
def test_with_ancestors_is_exact_for_every_run_of_pieces_however_many_levels_it_touches(chunk_count: int) -> None:
    shape = TreeShape(3 * chunk_count)
    above = [{piece} for piece in range(shape.piece_count)]
    for piece in range(1, shape.piece_count):
        parent = shape.parent(piece)
        assert parent is not None
        above[piece] |= above[parent[0]]
    for start in range(shape.piece_count):
        expected: set[int] = set()
        for stop in range(start + 1, shape.piece_count + 1):
            expected |= above[stop - 1]
            assert set(shape.with_ancestors(RangeSet([(start, stop)]))) == expected


def test_a_stream_has_no_tree_and_no_end() -> None:
    shape = shape_of(None)
    assert isinstance(shape, OpenShape)
    assert repr(shape) == "OpenShape()"
    assert (shape.node_count, shape.parent(10**6), shape.is_chunk(0)) == (0, None, True)
    assert shape.with_ancestors(RangeSet([(5, 9)])) == RangeSet([(5, 9)])
    assert 10**6 in shape.roots


def test_the_largest_file_needs_four_levels_and_fits_the_piece_numbers() -> None:
    shape = TreeShape(MAX_FILE_SIZE)
    assert shape.chunk_count == TREE_FAN_OUT**3
    assert shape.node_count == 1 + TREE_FAN_OUT + TREE_FAN_OUT**2
    assert shape.piece_count < 2**31
    assert shape.parent(shape.piece_count - 1) == (shape.node_count - 1, TREE_FAN_OUT - 1)


def test_a_file_of_one_chunk_has_no_nodes_and_an_empty_one_no_pieces() -> None:
    shape, file_id, pieces = build([b"hello"])
    assert (shape.node_count, shape.piece_count, shape.tree_size_bytes) == (0, 1, 0)
    assert shape.is_chunk(0)
    assert genuine(shape, file_id, pieces, 0, b"hello")
    shape, file_id, _ = build([])
    assert shape.piece_count == 0
    assert file_id == file_id_of(0, bytes(32))


def test_a_file_id_binds_the_size() -> None:
    chunk = b"\0" * 10
    _, file_id, _ = build([chunk])
    assert not piece_is_genuine(TreeShape(9), file_id, 0, chunk[:9], parent_data=None)
    assert file_id != file_id_of(11, hash_chunk(chunk))


def test_the_same_bytes_hash_differently_as_chunk_and_as_node() -> None:
    assert hash_chunk(b"x" * 32) != hash_node(b"x" * 32)


def test_ids_of_known_files_stay_as_they_are() -> None:
    _, one_chunk, _ = build([b"poolnet"])
    _, two_chunks, _ = build([b"a" * CHUNK_SIZE, b"b"])
    assert one_chunk.hex() == "43dc4471c78e60cc0c88250b6f36dd6ab96fd58ee35a19c1ad0a7e12db428445"
    assert two_chunks.hex() == "1d8b68ed28d81815d48fc30df990321030be6b89313fdd0099969be027709e57"


def test_a_builder_refuses_a_size_that_does_not_fit() -> None:
    builder = TreeBuilder()
    builder.add(hash_chunk(b"x"))
    with pytest.raises(ValueError, match="1 chunks for"):
        builder.finish(CHUNK_SIZE + 1)


def test_a_builder_keeps_no_more_than_one_unfinished_node_a_level() -> None:
    builder, leaf = TreeBuilder(), bytes(32)
    nodes = [node for _ in range(3 * TREE_FAN_OUT + 1) for node in builder.add(leaf)]
    assert [(node.height, node.index) for node in nodes] == [(0, 0), (0, 1), (0, 2)]
    assert expected_hash(nodes[0].data, TREE_FAN_OUT - 1) == leaf
