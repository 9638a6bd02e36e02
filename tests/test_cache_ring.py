"""The ring of pieces on disk: against a dict, with damage, with disks that are full or fail, with several threads."""

import contextlib
import errno
import fcntl
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from small_disks import can_mount, small_disk

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MAX_CACHE_SLOTS, MIB
from poolnet.ranges import RangeSet
from poolnet.storage.cache_ring import CacheRing, PieceKey, open_ring
from poolnet.storage.files import RESERVED_SPACE
from poolnet.storage.ring_file import RingFile

FILES = [FileId(bytes([number]) * 32) for number in range(3)]
ONE = FILES[0]
KEYS = st.tuples(st.sampled_from(FILES), st.integers(0, 4))
needs_fallocate = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is not allocated in advance here")
needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root and Linux")


def make_ring(tmp_path: Path, slots: int) -> CacheRing:
    return open_ring(tmp_path, size_bytes=slots * CHUNK_SIZE)


def damage(ring: CacheRing, data: bytes) -> None:
    """Overwrite the first bytes of a piece (unique, and still here) on disk."""
    content = ring.path.read_bytes()
    slot = next(at for at in range(0, len(content), CHUNK_SIZE) if content.startswith(data, at))
    with ring.path.open("r+b") as file:
        file.seek(slot)
        file.write(b"damaged!")


class RingMachine(RuleBasedStateMachine):
    """A ring of three slots beside an ordered dict, oldest first."""

    SLOTS = 3

    @initialize()
    def open(self) -> None:
        self.directory = TemporaryDirectory()
        self.ring = make_ring(Path(self.directory.name), self.SLOTS)
        self.model: OrderedDict[PieceKey, bytes] = OrderedDict()
        self.pins: list[tuple[PieceKey, contextlib.ExitStack]] = []
        self.version = 0

    def teardown(self) -> None:
        self.ring.close()
        assert os.listdir(self.directory.name) == []
        self.directory.cleanup()

    @rule(keys=st.lists(KEYS, min_size=1, max_size=6), size=st.integers(8, 2000))
    def put_something_new(self, keys: list[PieceKey], size: int) -> None:
        for key in keys:
            self.put_one(key, size)

    def put_one(self, key: PieceKey, size: int) -> None:
        self.version += 1
        data = self.version.to_bytes(8, "little") + bytes(size - 8)
        self.model.pop(key, None)
        pinned = {key for key, _ in self.pins}
        gone = []
        if len(self.model) == self.SLOTS:
            gone = [next((old for old in self.model if old not in pinned), key)]
            self.model.pop(gone[0], None)
        if gone != [key]:
            self.model[key] = data
        assert self.ring.put(*key, data) == gone

    @rule(index=st.integers(0, SLOTS - 1))
    def put_the_same_again(self, index: int) -> None:
        if index < len(self.model):
            key = list(self.model)[index]
            assert self.ring.put(*key, self.model[key]) == []
            self.model.move_to_end(key)

    @rule(file_id=st.sampled_from(FILES), pieces=st.lists(st.integers(0, 4)))
    def renew(self, file_id: FileId, pieces: list[int]) -> None:
        self.ring.renew(file_id, pieces)
        for piece in pieces:
            if (file_id, piece) in self.model:
                self.model.move_to_end((file_id, piece))

    @rule(key=KEYS)
    def get(self, key: PieceKey) -> None:
        assert self.ring.get(*key) == self.model.get(key)

    @rule(index=st.integers(0, SLOTS), absent=KEYS)
    def pin(self, index: int, absent: PieceKey) -> None:
        key = list(self.model)[index] if index < len(self.model) else absent
        if len(self.pins) < 2 * self.SLOTS:
            stack = contextlib.ExitStack()
            stack.enter_context(self.ring.pinned(key[0], [key[1]]))
            self.pins.append((key, stack))

    @rule(index=st.integers(0, 2 * SLOTS - 1))
    def unpin(self, index: int) -> None:
        if index < len(self.pins):
            self.pins.pop(index)[1].close()

    @rule(file_id=st.sampled_from(FILES))
    def forget(self, file_id: FileId) -> None:
        self.ring.forget(file_id)
        for key in [key for key in self.model if key[0] == file_id]:
            del self.model[key]

    @rule(key=KEYS)
    def damage_a_piece(self, key: PieceKey) -> None:
        if key in self.model:
            damage(self.ring, self.model.pop(key))
            assert self.ring.get(*key) is None

    @invariant()
    def holds_the_same(self) -> None:
        for file_id in FILES:
            expected = RangeSet.of(piece for of, piece in self.model if of == file_id)
            assert self.ring.held(file_id) == expected.to_ranges()
        assert self.ring.statistics().pieces == len(self.model)


RingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_a_ring_is_a_dict_whose_oldest_unpinned_entries_go = RingMachine.TestCase


def test_a_whole_chunk_comes_back_and_more_is_refused(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, 2)
    chunk = os.urandom(CHUNK_SIZE)
    assert ring.put(ONE, 7, chunk) == []
    assert ring.put(ONE, 8, b"") == []
    assert ring.get(ONE, 7) == chunk
    assert ring.get(ONE, 8) == b""
    with pytest.raises(ValueError, match="at most"):
        ring.put(ONE, 9, chunk + b"x")
    ring.close()


def test_the_oldest_go_first_but_not_those_that_are_pinned_or_were_put_again(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, 3)
    for piece in range(3):
        ring.put(ONE, piece, b"x")
    assert ring.put(ONE, 0, b"x") == []
    with ring.pinned(ONE, [1, 2]), ring.pinned(ONE, [0]):
        with ring.pinned(ONE, [1]):
            assert ring.put(ONE, 3, b"x") == [(ONE, 3)], "everything is pinned"
        assert ring.put(ONE, 3, b"x") == [(ONE, 3)], "one of two pins is left"
    with ring.pinned(ONE, [1]):
        assert ring.put(ONE, 3, b"x") == [(ONE, 2)]
    assert [ring.put(ONE, piece, b"x") for piece in (4, 5, 6)] == [[(ONE, 1)], [(ONE, 0)], [(ONE, 3)]]
    ring.renew(ONE, [4, 99])
    assert ring.put(ONE, 7, b"x") == [(ONE, 5)]
    ring.close()


def test_room_is_taken_as_pieces_come_and_never_more_than_allowed(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, 100)
    assert list(tmp_path.iterdir()) == []
    for piece in range(150):
        ring.put(ONE, piece, b"x")
        assert ring.path.stat().st_size == (64 if piece < 64 else 100) * CHUNK_SIZE
    assert ring.held(ONE) == ((50, 150),)
    statistics = ring.statistics()
    assert (statistics.pieces, statistics.slots, statistics.max_slots) == (100, 100, 100)
    assert (statistics.stored, statistics.evicted, statistics.refused) == (150, 50, 0)
    ring.close()
    assert list(tmp_path.iterdir()) == []


def test_a_ring_is_never_larger_than_its_index_may_be(tmp_path: Path) -> None:
    assert CacheRing(tmp_path / "cache-1.ring", 2**60).statistics().max_slots == MAX_CACHE_SLOTS


@pytest.mark.parametrize("size_bytes", [0, CHUNK_SIZE - 1, -5])
def test_a_ring_without_room_for_a_chunk_is_off(tmp_path: Path, size_bytes: int) -> None:
    ring = open_ring(tmp_path, size_bytes=size_bytes)
    assert ring.put(ONE, 1, b"x") == [(ONE, 1)]
    assert ring.get(ONE, 1) is None
    assert not ring.is_usable
    ring.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_loses_pieces_and_takes_new_ones(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, 4)
    for piece in range(4):
        ring.put(ONE, piece, bytes([piece]) * 100)
    os.truncate(ring.path, 2 * CHUNK_SIZE)
    assert [ring.get(ONE, piece) for piece in range(4)].count(None) == 2
    assert ring.statistics().damaged == 2
    for piece in range(4, 8):
        ring.put(ONE, piece, bytes([piece]) * 100)
    assert [ring.get(ONE, piece) for piece in range(4, 8)] == [bytes([piece]) * 100 for piece in range(4, 8)]
    ring.close()


def test_a_file_that_somebody_removed_works_on(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, 2)
    ring.put(ONE, 1, b"x")
    ring.path.unlink()
    ring.put(ONE, 2, b"y")
    assert (ring.get(ONE, 1), ring.get(ONE, 2)) == (b"x", b"y")
    ring.close()


def test_what_a_crash_left_is_removed_and_nothing_else_is(tmp_path: Path) -> None:
    live = make_ring(tmp_path, 1)
    live.put(ONE, 1, b"x")
    (tmp_path / "cache-17.ring").write_bytes(b"left behind")
    (tmp_path / "notes.ring").touch()
    (tmp_path / "cache-dir.ring").mkdir()
    (tmp_path / "cache-link.ring").symlink_to(tmp_path / "notes.ring")
    ring = make_ring(tmp_path, 1)
    kept = {live.path.name, "notes.ring", "cache-dir.ring", "cache-link.ring"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    ring.close()
    live.close()


def test_without_locks_in_the_file_system_what_a_crash_left_is_removed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / "cache-17.ring").touch()
    ring = make_ring(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []
    assert ring.put(ONE, 1, b"x") == []
    ring.close()


def test_a_leftover_that_cannot_be_removed_keeps_nobody_from_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "no")

    (tmp_path / "cache-17.ring").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        ring = make_ring(tmp_path, 1)
    assert ring.put(ONE, 1, b"x") == []
    ring.close()


def test_after_closing_nothing_is_here_and_nothing_is_stored(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, 2)
    ring.put(ONE, 1, b"x")
    ring.close()
    ring.close()
    assert ring.get(ONE, 1) is None
    assert ring.held(ONE) == ()
    assert ring.put(ONE, 1, b"x") == [(ONE, 1)]
    assert not ring.is_usable
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_write_that_fails_costs_the_piece_and_what_made_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(_file: RingFile, _slot: int, _data: bytes) -> None:
        raise OSError(code, os.strerror(code))

    ring = make_ring(tmp_path, 2)
    ring.put(ONE, 1, b"a")
    ring.put(ONE, 2, b"b")
    with monkeypatch.context() as patch:
        patch.setattr(RingFile, "write", fail)
        assert ring.put(ONE, 3, b"c") == [(ONE, 1), (ONE, 3)]
        assert ring.put(ONE, 4, b"d") == [(ONE, 4)]
    assert ring.held(ONE) == ((2, 3),)
    assert (ring.statistics().refused, ring.statistics().disk_errors) == (2, 2)
    assert ring.put(ONE, 5, b"e") == []
    assert (ring.get(ONE, 2), ring.get(ONE, 5)) == (b"b", b"e")
    ring.close()


def test_a_read_that_fails_is_a_miss_and_the_piece_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_file: RingFile, _slot: int, _size: int) -> bytes:
        raise OSError(errno.EIO, "bad sector")

    ring = make_ring(tmp_path, 2)
    ring.put(ONE, 1, b"a")
    with monkeypatch.context() as patch:
        patch.setattr(RingFile, "read", fail)
        assert ring.get(ONE, 1) is None
    assert ring.held(ONE) == ()
    assert ring.statistics().disk_errors == 1
    assert ring.put(ONE, 1, b"a") == []
    assert ring.get(ONE, 1) == b"a"
    ring.close()


def test_a_file_system_that_does_not_allocate_in_advance_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    ring = make_ring(tmp_path, 2)
    assert ring.put(ONE, 1, b"a") == []
    assert ring.get(ONE, 1) == b"a"
    ring.close()


def test_no_room_in_advance_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, _size: int) -> None:
        os.ftruncate(descriptor, offset + CHUNK_SIZE)
        raise OSError(errno.ENOSPC, "full")

    now = [0.0]
    ring = CacheRing(tmp_path / "cache-1.ring", 2 * CHUNK_SIZE, clock=lambda: now[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full, raising=False)
        assert ring.is_usable
        assert ring.put(ONE, 1, b"a") == [(ONE, 1)]
    assert ring.path.stat().st_size == 0
    assert not ring.is_usable
    assert ring.put(ONE, 1, b"a") == [(ONE, 1)], "a full disk is left alone for a while"
    now[0] = 5.0
    assert ring.is_usable
    assert ring.put(ONE, 1, b"a") == []
    ring.close()


@needs_mount
def test_on_a_small_disk_a_ring_takes_what_room_there_is_but_not_the_last(tmp_path: Path) -> None:
    now = [0.0]
    with small_disk(tmp_path / "disk", "8m") as disk:
        ring = CacheRing(disk.path / "cache-1.ring", 100 * MIB, clock=lambda: now[0])
        gone = Counter(key for piece in range(40) for key in ring.put(ONE, piece, os.urandom(CHUNK_SIZE)))
        slots = ring.statistics().slots
        assert slots == (8 * MIB - RESERVED_SPACE) // CHUNK_SIZE
        assert gone == Counter((ONE, piece) for piece in range(40 - slots))
        disk.fill()
        assert ring.put(ONE, 50, os.urandom(CHUNK_SIZE)) == [(ONE, 40 - slots)], "its room is its own"
        assert ring.statistics().disk_errors == 0
        ring.close()
    with small_disk(tmp_path / "full", "8m") as disk:
        disk.fill()
        ring = CacheRing(disk.path / "cache-1.ring", 100 * MIB, clock=lambda: now[0])
        assert ring.put(ONE, 1, b"x") == [(ONE, 1)]
        disk.free()
        now[0] += 5.0
        assert ring.put(ONE, 1, b"x") == []
        ring.close()


def test_threads_at_work_at_once_get_what_was_put_or_nothing(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, 6)
    failures: list[str] = []

    def content(piece: int) -> bytes:
        return bytes([piece]) * (20_000 + piece)

    def check(piece: int) -> None:
        if ring.get(ONE, piece) not in (None, content(piece)):
            failures.append(f"piece {piece} is wrong")

    def work(first: int) -> None:
        for turn in range(400):
            piece = (first + turn * 7) % 20
            with ring.pinned(ONE, [piece] if turn % 5 == 0 else []):
                ring.put(ONE, piece, content(piece))
                for other in (piece, (piece + turn) % 20):
                    check(other)
            if turn % 100 == 99:
                ring.forget(ONE)

    threads = [threading.Thread(target=work, args=(first * 5,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    statistics = ring.statistics()
    assert (statistics.damaged, statistics.disk_errors) == (0, 0)
    assert statistics.pieces <= statistics.slots == 6
    assert statistics.hits > 100
    for piece in range(100, 106):
        assert (ONE, piece) not in ring.put(ONE, piece, b"x"), "no slot was lost, no pin was left"
    assert ring.held(ONE) == ((100, 106),)
    ring.close()


def test_closing_waits_for_nobody_and_whoever_reads_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = make_ring(tmp_path, 2)
    ring.put(ONE, 1, b"x")
    reading, closed = threading.Event(), threading.Event()
    pread = os.pread

    def slow_pread(descriptor: int, size: int, offset: int) -> bytes:
        reading.set()
        closed.wait(10)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", slow_pread)
    found: list[bytes | None] = []
    thread = threading.Thread(target=lambda: found.append(ring.get(ONE, 1)))
    thread.start()
    reading.wait(10)
    ring.close()
    closed.set()
    thread.join()
    assert found == [b"x"]
    assert ring.statistics().disk_errors == 0


class SlowDisk:
    """Allocates room only when it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        self.calls = 0
        self._allocate = os.posix_fallocate
        monkeypatch.setattr(os, "posix_fallocate", self._wait)

    def _wait(self, descriptor: int, offset: int, size: int) -> None:
        self.calls += 1
        self.has_begun.set()
        assert self.may_go_on.wait(10)
        self._allocate(descriptor, offset, size)


def run_in_threads(*functions: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    return threads


@needs_fallocate
def test_while_room_is_made_whoever_asks_what_is_here_waits_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, disk = make_ring(tmp_path, 100), SlowDisk(monkeypatch)
    answers: list[object] = []

    def ask() -> None:
        answers.extend([ring.held(ONE), ring.get(ONE, 1), ring.statistics().pieces, ring.is_usable])

    growing = run_in_threads(lambda: ring.put(ONE, 1, b"x"))
    assert disk.has_begun.wait(10)
    (asking,) = run_in_threads(ask)
    asking.join(5)
    answered = list(answers)
    disk.may_go_on.set()
    for thread in (*growing, asking):
        thread.join()
    assert answered == [(), None, 0, True]
    assert ring.get(ONE, 1) == b"x"
    ring.close()


@needs_fallocate
def test_threads_that_need_room_at_once_share_what_one_of_them_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, disk = make_ring(tmp_path, 100), SlowDisk(monkeypatch)
    puts = [lambda piece=piece: ring.put(ONE, piece, bytes([piece]) * 1000) for piece in range(8)]
    threads = run_in_threads(*puts)
    assert disk.has_begun.wait(10)
    disk.may_go_on.set()
    for thread in threads:
        thread.join()
    assert [ring.get(ONE, piece) for piece in range(8)] == [bytes([piece]) * 1000 for piece in range(8)]
    assert (ring.statistics().pieces, ring.statistics().slots, disk.calls) == (8, 64, 1)
    for piece in range(8, 100):
        assert ring.put(ONE, piece, b"x") == []
    assert (ring.statistics().slots, disk.calls) == (100, 2)
    ring.close()


@needs_fallocate
def test_closing_does_not_wait_for_room_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, disk = make_ring(tmp_path, 100), SlowDisk(monkeypatch)
    gone: list[PieceKey] = []
    growing = run_in_threads(lambda: gone.extend(ring.put(ONE, 1, b"x")))
    assert disk.has_begun.wait(10)
    (closing,) = run_in_threads(ring.close)
    closing.join(5)
    was_closed = not closing.is_alive()
    disk.may_go_on.set()
    for thread in (*growing, closing):
        thread.join()
    assert was_closed
    assert gone == [(ONE, 1)]
    assert list(tmp_path.iterdir()) == []
    assert ring.statistics().disk_errors == 0


def test_what_is_written_while_the_ring_is_closed_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = make_ring(tmp_path, 2)
    write = RingFile.write

    def write_and_close(file: RingFile, slot: int, data: bytes) -> None:
        write(file, slot, data)
        ring.close()

    monkeypatch.setattr(RingFile, "write", write_and_close)
    assert ring.put(ONE, 1, b"x") == [(ONE, 1)]
    assert ring.held(ONE) == ()
    assert list(tmp_path.iterdir()) == []
