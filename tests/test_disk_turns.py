"""Pieces that several links have for the disk at the same time share a thread hop, and nothing else."""

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from poolnet.errors import StoreError
from poolnet.files import disk_turns
from poolnet.files.disk_turns import DiskTurns


class Store:
    """Doubles numbers. Odd ones above 100 are refused, with all beside them."""

    def double(self, pieces: Sequence[int]) -> list[int]:
        if any(piece > 100 and piece % 2 for piece in pieces):
            raise StoreError("refused")
        return [2 * piece for piece in pieces]


class SlowDisk:
    """Stands for the threads: each call waits until it is let through."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = trio.Semaphore(0)

    async def run(self, work: Callable[[Sequence[int]], list[int]], pieces: Sequence[int]) -> list[int]:
        self.calls.append(list(pieces))
        await self.gate.acquire()
        return work(pieces)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    slow = SlowDisk()
    monkeypatch.setattr(disk_turns, "run_on_disk", slow.run)
    return slow


class Links:
    """Several callers at once, and what each was told."""

    def __init__(self, nursery: trio.Nursery, disk: SlowDisk) -> None:
        self.turns = DiskTurns()
        self.store = Store()
        self.told: dict[str, list[int] | str] = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self._nursery = nursery
        self._disk = disk

    async def begin(self, name: str, pieces: list[int], store: Store | None = None) -> None:
        """Let a caller ask, as far as it goes."""
        self._nursery.start_soon(self._ask, name, pieces, store or self.store)
        await trio.testing.wait_all_tasks_blocked()

    async def cancel(self, name: str) -> None:
        self.scopes[name].cancel()
        await trio.testing.wait_all_tasks_blocked()

    async def let_through(self, count: int) -> None:
        for _ in range(count):
            self._disk.gate.release()
        await trio.testing.wait_all_tasks_blocked()

    async def _ask(self, name: str, pieces: list[int], store: Store) -> None:
        with trio.CancelScope() as scope:
            self.scopes[name] = scope
            try:
                self.told[name] = list(await self.turns.do(store.double, pieces))
            except StoreError as exc:
                self.told[name] = str(exc)


async def test_what_is_asked_for_meanwhile_is_done_together(disk: SlowDisk) -> None:
    async with trio.open_nursery() as nursery:
        links = Links(nursery, disk)
        await links.begin("ann", [1, 2])
        await links.begin("bob", [3])
        await links.begin("cid", [4, 5])
        await links.let_through(2)
        assert links.told == {"ann": [2, 4], "bob": [6], "cid": [8, 10]}
        assert disk.calls == [[1, 2], [3, 4, 5]]


async def test_more_than_fits_one_turn_is_done_in_the_next(disk: SlowDisk) -> None:
    async with trio.open_nursery() as nursery:
        links = Links(nursery, disk)
        for number in range(4):
            await links.begin(str(number), list(range(10 * number, 10 * number + 8)))
        await links.let_through(3)
        assert [len(call) for call in disk.calls] == [8, 16, 8]
        assert links.told["3"] == [2 * piece for piece in range(30, 38)]


async def test_a_failure_concerns_only_whose_pieces_fail(disk: SlowDisk) -> None:
    async with trio.open_nursery() as nursery:
        links = Links(nursery, disk)
        await links.begin("ann", [1])
        await links.begin("bob", [101])
        await links.begin("cid", [4])
        await links.let_through(4)
        assert links.told == {"ann": [2], "bob": "refused", "cid": [8]}
        assert disk.calls == [[1], [101, 4], [101], [4]]


async def test_who_is_cancelled_while_waiting_is_left_out(disk: SlowDisk) -> None:
    async with trio.open_nursery() as nursery:
        links = Links(nursery, disk)
        for name, piece in (("ann", 1), ("bob", 2), ("cid", 3)):
            await links.begin(name, [piece])
        await links.cancel("bob")
        await links.let_through(2)
        assert links.told == {"ann": [2], "cid": [6]}
        assert disk.calls == [[1], [3]]


@pytest.mark.parametrize(("cancelled", "other", "told"), [("ann", "bob", [4]), ("bob", "ann", [2])])
async def test_who_is_cancelled_while_it_is_done_holds_up_nobody(
    disk: SlowDisk, cancelled: str, other: str, told: list[int]
) -> None:
    async with trio.open_nursery() as nursery:
        links = Links(nursery, disk)
        for name, piece in (("first", 0), ("ann", 1), ("bob", 2)):
            await links.begin(name, [piece])
        await links.let_through(1)
        await links.cancel(cancelled)
        await links.begin("dan", [3])
        await links.let_through(2)
        assert disk.calls == [[0], [1, 2], [3]]
        assert links.told[other] == told
        assert links.told["dan"] == [6]


async def test_files_do_not_wait_for_each_other(disk: SlowDisk) -> None:
    async with trio.open_nursery() as nursery:
        links = Links(nursery, disk)
        await links.begin("ann", [1])
        await links.begin("bob", [2], Store())
        assert disk.calls == [[1], [2]]
        await links.let_through(2)
        assert links.told == {"ann": [2], "bob": [4]}
