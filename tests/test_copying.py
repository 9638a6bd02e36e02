"""Copies within the device: the same bytes by every way, holes kept, old content gone."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolnet.limits import CHUNK_SIZE, KIB, MIB
from poolnet.storage import copying
from poolnet.storage.copying import clone_file, copy_range

WAYS = ["as the system likes", "without reflinks", "by hand"]


def no_reflinks(_descriptor: int, _request: int, _argument: bytes) -> int:
    raise OSError(errno.EOPNOTSUPP, "no reflinks here")


def no_kernel_copy(*_arguments: int) -> int:
    raise OSError(errno.EXDEV, "not between these")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the file system offer less and less."""
    if request.param != WAYS[0]:
        monkeypatch.setattr(copying, "ioctl", no_reflinks)
    if request.param == WAYS[2]:
        monkeypatch.setattr(os, "copy_file_range", no_kernel_copy, raising=False)
    return str(request.param)


class Files:
    """Two files, open."""

    def __init__(self, directory: Path) -> None:
        self.source_path, self.target_path = directory / "source", directory / "target"
        self.source = os.open(self.source_path, os.O_RDWR | os.O_CREAT)
        self.target = os.open(self.target_path, os.O_RDWR | os.O_CREAT)

    def close(self) -> None:
        os.close(self.source)
        os.close(self.target)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    pair = Files(tmp_path)
    yield pair
    pair.close()


def keeps_holes(directory: Path) -> bool:
    path = directory / "probe"
    path.touch()
    os.truncate(path, 4 * MIB)
    return path.stat().st_blocks == 0


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [0, 1, 4096, CHUNK_SIZE, 3 * MIB + 5])
def test_a_clone_is_the_same_whatever_was_there_before(files: Files, size: int) -> None:
    content = os.urandom(size)
    files.source_path.write_bytes(content)
    files.target_path.write_bytes(os.urandom(5 * MIB))
    assert clone_file(files.source_path, files.target) == size
    assert files.target_path.read_bytes() == content


@pytest.mark.usefixtures("way")
def test_a_part_replaces_a_part_and_nothing_around_it(files: Files) -> None:
    source, target = os.urandom(2 * MIB), os.urandom(2 * MIB)
    files.source_path.write_bytes(source)
    files.target_path.write_bytes(target)
    assert copy_range(files.source, 4096, files.target, 8192, MIB) == MIB
    assert files.target_path.read_bytes() == target[:8192] + source[4096 : 4096 + MIB] + target[8192 + MIB :]
    assert copy_range(files.source, 77, files.target, 5, 999) == 999
    assert files.target_path.read_bytes()[:1010] == target[:5] + source[77:1076] + target[1004:1010]


@pytest.mark.usefixtures("way")
def test_what_the_source_does_not_have_is_not_counted(files: Files) -> None:
    files.source_path.write_bytes(b"short")
    assert copy_range(files.source, 2, files.target, 0, 100) == 3
    assert copy_range(files.source, 9, files.target, 50, 100) == 0
    assert files.target_path.read_bytes() == b"ort"


@pytest.mark.usefixtures("way")
def test_a_sparse_file_of_gigabytes_is_copied_at_once_and_stays_sparse(files: Files, tmp_path: Path) -> None:
    if not keeps_holes(tmp_path):
        pytest.skip("no holes in files here")
    size = 64 * 1024 * MIB
    os.truncate(files.source, size)
    for offset in (5 * MIB, size - 5):
        os.pwrite(files.source, b"data!", offset)
    assert clone_file(files.source_path, files.target) == size
    found = os.fstat(files.target)
    assert (found.st_size, found.st_blocks * 512 < MIB) == (size, True)
    assert os.pread(files.target, 5, 5 * MIB) == os.pread(files.target, 5, size - 5) == b"data!"
    assert os.pread(files.target, 100, 1024 * MIB) == bytes(100)


@pytest.mark.usefixtures("way")
def test_a_hole_hides_what_was_in_the_target(files: Files) -> None:
    os.truncate(files.source, 3 * MIB)
    os.truncate(files.target, 8 * MIB)
    os.pwrite(files.target, b"old" * 10_000, 2 * MIB)
    os.pwrite(files.target, b"kept", 4 * MIB)
    assert copy_range(files.source, 0, files.target, MIB, 2 * MIB) == 2 * MIB
    content = files.target_path.read_bytes()
    assert content[: 4 * MIB].count(0) == 4 * MIB
    assert content[4 * MIB :] == b"kept" + bytes(4 * MIB - 4)


def test_where_nobody_knows_of_holes_everything_is_copied(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_descriptor: int, _offset: int, _whence: int) -> int:
        raise OSError(errno.EINVAL, "what is a hole?")

    files.source_path.write_bytes(bytes(MIB) + b"data")
    monkeypatch.setattr(os, "lseek", unknown)
    assert clone_file(files.source_path, files.target) == MIB + 4
    assert files.target_path.read_bytes() == bytes(MIB) + b"data"


@pytest.mark.parametrize("step", ["ioctl", "copy_file_range", "pwrite"])
def test_a_disk_that_fails_is_told_and_not_tried_another_way(
    files: Files, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(copying, "ioctl", fail if step == "ioctl" else no_reflinks)
    monkeypatch.setattr(os, "copy_file_range", fail if step == "copy_file_range" else no_kernel_copy, raising=False)
    files.source_path.write_bytes(b"x" * 100)
    if step == "pwrite":
        monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="broken"):
        copy_range(files.source, 0, files.target, 0, 100)


def test_a_reflink_is_asked_for_with_the_numbers_of_the_part(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def shared(descriptor: int, request: int, argument: bytes) -> int:
        asked.append((descriptor, request, argument))
        return 0

    monkeypatch.setattr(copying, "ioctl", shared)
    os.truncate(files.source, MIB)
    assert copy_range(files.source, 4096, files.target, 8192, 65536) == 65536
    numbers = [(files.source, 8), (4096, 8), (65536, 8), (8192, 8)]  # of struct file_clone_range, <linux/fs.h>
    packed = b"".join(number.to_bytes(size, sys.byteorder) for number, size in numbers)
    assert asked == [(files.target, 0x4020940D, packed)]


#: Data (True) or a hole, and how long.
RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=8)


def lay_out(descriptor: int, runs: list[tuple[bool, int]], fill: bytes) -> bytes:
    """Make a file of these runs, in KiB; return its content."""
    content = b""
    for has_data, size in runs:
        if has_data:
            os.pwrite(descriptor, fill * size * KIB, len(content))
        content += (fill if has_data else b"\0") * size * KIB
    os.truncate(descriptor, len(content))
    return content


@settings(max_examples=100)
@given(RUNS, RUNS, st.integers(0, 200), st.integers(0, 200), st.integers(0, 300))
def test_any_part_of_any_files_is_what_slices_of_bytes_say(
    source_runs: list[tuple[bool, int]], target_runs: list[tuple[bool, int]], start: int, place: int, size: int
) -> None:
    start, place, size = start * 1000, place * 1000, size * 1000
    with TemporaryDirectory() as directory:
        files = Files(Path(directory))
        source = lay_out(files.source, source_runs, b"s")
        target = lay_out(files.target, target_runs, b"t")
        copied = copy_range(files.source, start, files.target, place, size)
        part = source[start : start + size]
        assert copied == len(part)
        expected = target[:place].ljust(place, b"\0") + part + target[place + len(part) :] if part else target
        assert files.target_path.read_bytes() == expected
        files.close()
