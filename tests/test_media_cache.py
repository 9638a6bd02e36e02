"""The directory of pictures: the oldest go first, and what is there is known again after a restart."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolnet.clock import make_hlc
from poolnet.errors import OutputExists, SourceUnavailable, StoreError
from poolnet.ids import FileId, encode_id
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import TreeBuilder, hash_chunk
from poolnet.storage.media_cache import MediaCache, copy_verified

A, B, C = (FileId(bytes([number]) * 32) for number in (1, 2, 3))


def id_of(content: bytes) -> FileId:
    builder = TreeBuilder()
    for start in range(0, len(content), CHUNK_SIZE):
        builder.add(hash_chunk(content[start : start + CHUNK_SIZE]))
    return builder.finish(len(content))[0]


def opened(directory: Path, size_bytes: int = 100) -> MediaCache:
    cache = MediaCache(directory, size_bytes)
    cache.load()
    return cache


def put(cache: MediaCache, file_id: FileId, size_bytes: int, unix_ms: int, *, name: str = "x.png") -> Path:
    path = cache.place(file_id, name)
    path.write_bytes(bytes(size_bytes))
    assert cache.add(file_id, path, make_hlc(unix_ms)) == size_bytes
    return path


def test_the_oldest_have_to_go_until_the_rest_fits(tmp_path: Path) -> None:
    cache = opened(tmp_path / "media")
    put(cache, A, 40, unix_ms=3)
    put(cache, B, 40, unix_ms=1)
    assert cache.surplus() == []
    put(cache, C, 21, unix_ms=2)
    assert cache.surplus() == [B]
    cache.date(B, make_hlc(4))
    assert cache.surplus() == [C]
    cache.size_bytes = 0
    assert cache.surplus() == [C, A, B]


def test_pictures_and_parts_are_found_again_by_their_names_and_other_files_are_left_alone(tmp_path: Path) -> None:
    cache = opened(tmp_path / "media")
    kept, undated = put(cache, A, 5, unix_ms=9, name="a.JPG"), put(cache, B, 6, unix_ms=8, name="b")
    os.utime(kept, (1, 2))
    os.utime(undated, (1, 1))
    cache.place(C, "c.gif").with_name(cache.place(C, "c.gif").name + ".part").write_bytes(b"half")
    strangers = [cache.directory / name for name in ("notes.txt", f"{encode_id(C).upper()}.png", "x.part")]
    for stranger in strangers:
        stranger.write_bytes(b"mine")
    (cache.directory / f"{encode_id(C)}.png").symlink_to(strangers[0])
    again = MediaCache(tmp_path / "media", 4)
    assert again.load() == {C}
    assert (again.path_of(A), again.path_of(B), again.path_of(C)) == (kept, undated, None)
    assert again.total_bytes == 11
    assert again.surplus() == [B, A]
    for file_id in (A, B, C):
        again.remove(file_id)
    assert set(cache.directory.iterdir()) == set(strangers)


def test_a_picture_that_is_there_under_two_names_counts_once(tmp_path: Path) -> None:
    cache = opened(tmp_path / "media")
    put(cache, A, 5, unix_ms=1, name="a.png")
    put(cache, A, 5, unix_ms=1, name="a.jpg")
    again = opened(tmp_path / "media")
    assert again.total_bytes == 5
    assert len(list(again.directory.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.PNG", ".png"),
        ("a.tar.webp", ".webp"),
        ("a.exe", ""),
        ("a.svg", ""),
        ("../../a.png", ".png"),
        (".png", ""),
        ("a.png\u202e/x", ""),
        ("", ""),
    ],
)
def test_a_picture_is_called_by_its_id_and_a_harmless_suffix(tmp_path: Path, name: str, suffix: str) -> None:
    assert MediaCache(tmp_path, 1).place(A, name) == tmp_path / f"{encode_id(A)}{suffix}"


def test_a_picture_that_is_not_there_cannot_be_kept(tmp_path: Path) -> None:
    cache = opened(tmp_path / "media")
    with pytest.raises(StoreError):
        cache.add(A, cache.place(A, "a.png"), make_hlc(1))
    assert A not in cache


class TestTheCacheAgainstAModel:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
    @given(
        steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.integers(0, 9)), max_size=20),
    )
    def test_what_is_left_fits_and_is_newer_than_all_that_went(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int]]
    ) -> None:
        cache = opened(tmp_path_factory.mktemp("media"))
        model: dict[FileId, tuple[int, int]] = {}
        for number, size_bytes, unix_ms in steps:
            file_id = FileId(bytes([number]) * 32)
            put(cache, file_id, size_bytes, unix_ms)
            model[file_id] = (unix_ms, size_bytes)
            gone = cache.surplus()
            for each in gone:
                cache.remove(each)
            went = [model.pop(each) for each in gone]
            assert set(cache) == set(model)
            assert cache.total_bytes == sum(size for _, size in model.values()) <= 100
            assert all(old[0] <= new[0] for old in went for new in model.values())
            assert all(cache.total_bytes + old[1] > 100 for old in went[-1:])
        assert len(list(cache.directory.iterdir())) == len(model)


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 1025], ids=["empty", "a byte", "two chunks"])
def test_a_copy_is_whole_and_never_over_something(tmp_path: Path, content: bytes) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    copy_verified(source, id_of(content), target)
    assert target.read_bytes() == content
    target.write_bytes(b"mine")
    with pytest.raises(OutputExists):
        copy_verified(source, id_of(content), target)
    assert target.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_what_is_damaged_or_gone_is_not_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"other")
    with pytest.raises(SourceUnavailable):
        copy_verified(source, id_of(b"bytes"), target)
    with pytest.raises(SourceUnavailable):
        copy_verified(tmp_path / "nowhere", A, target)
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_larger_than_all_of_the_cache_is_not_kept_and_pushes_nothing_out(tmp_path: Path) -> None:
    cache = opened(tmp_path / "media")
    put(cache, A, 100, unix_ms=1)
    put(cache, B, 101, unix_ms=2)
    assert (set(cache), cache.surplus()) == ({A}, [])
