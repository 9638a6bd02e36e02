"""Where the parts of downloads lie: what was fetched is not lost because a place cannot be used."""

from pathlib import Path

import pytest
from small_disks import can_mount, small_disk

from poolnet.errors import OutputExists, StoreError
from poolnet.files.part_paths import move_part, put_part_aside

needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, to mount a small disk")
#: With ".part" behind it no system takes it, not even to look whether it is there.
LONG = "x" * 252


def fetched(path: Path) -> Path:
    path.write_bytes(b"fetched")
    return path


def test_a_part_is_moved_and_where_there_is_none_nothing_is_done(tmp_path: Path) -> None:
    earlier, part = fetched(tmp_path / "a.part"), tmp_path / "b.part"
    assert move_part(earlier, part)
    assert part.read_bytes() == b"fetched"
    assert move_part(earlier, tmp_path / "c.part")
    assert move_part(part, part)
    assert list(tmp_path.iterdir()) == [part]


@pytest.mark.parametrize("place", ["gone/a.part", f"{LONG}.part", "file/a.part"])
def test_a_part_that_cannot_be_moved_stays_where_it_is(tmp_path: Path, place: str) -> None:
    earlier = fetched(tmp_path / "a.part")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        move_part(earlier, tmp_path / place)
    assert earlier.read_bytes() == b"fetched"


def test_a_part_is_never_moved_over_something(tmp_path: Path) -> None:
    earlier, part = fetched(tmp_path / "a.part"), tmp_path / "b.part"
    part.write_bytes(b"mine")
    with pytest.raises(OutputExists):
        move_part(earlier, part)
    assert (earlier.read_bytes(), part.read_bytes()) == (b"fetched", b"mine")


@needs_mount
def test_a_part_stays_if_the_place_is_on_another_disk(tmp_path: Path) -> None:
    earlier = fetched(tmp_path / "a.part")
    with small_disk(tmp_path / "disk", "1m") as disk:
        assert not move_part(earlier, disk.path / "a.part")
        assert not (disk.path / "a.part").exists()
    assert earlier.read_bytes() == b"fetched"


def test_a_place_that_cannot_be_looked_at_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        move_part(tmp_path / f"{LONG}.part", tmp_path / "a.part")
    with pytest.raises(StoreError):
        put_part_aside(tmp_path / f"{LONG}.part")
