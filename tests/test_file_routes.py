"""What the swarm is told of how far holders are: for what is fetched here, and for what peers ask to be relayed."""

from collections.abc import Collection, Sequence

import pytest
import trio
from trio.testing import MockClock

from poolnet.files import routes as routes_module
from poolnet.files.routes import Routes
from poolnet.ids import DeviceId, FileId

FILE, OTHER, THIRD = (FileId(bytes([number]) * 32) for number in (1, 2, 3))
ANN, BOB = (DeviceId(bytes([number]) * 32) for number in (7, 8))


class Offers:
    def __init__(self) -> None:
        self.of: dict[FileId, tuple[DeviceId, ...]] = {FILE: (ANN,), OTHER: (ANN,), THIRD: (ANN,)}
        self.sizes_of: dict[FileId, tuple[int | None, ...]] = {}

    def nodes(self, file_id: FileId) -> Sequence[DeviceId]:
        return self.of.get(file_id, ())

    def sizes(self, file_id: FileId) -> Sequence[int | None]:
        return self.sizes_of.get(file_id, (100,))


class World:
    """Routes over offers; Ann is two links away, Bob three."""

    def __init__(self) -> None:
        self.offers = Offers()
        self.told: list[tuple[FileId, int | None, int | None]] = []
        self.fetched: list[FileId] = []
        self.routes = Routes(self.offers, tell=self._tell, fetched=lambda: self.fetched)
        self.routes.measure_by(hops_to)

    def _tell(self, file_id: FileId, size: int | None, hops: int | None) -> None:
        self.told.append((file_id, size, hops))

    def doubt(self, file_id: FileId, *, is_word: bool = True) -> bool:
        """Doubt a size, and tell the next."""
        is_another = self.routes.size_doubted(file_id, is_word=is_word)
        self.routes.offers_changed(file_id)
        return is_another

    def news(self) -> list[tuple[FileId, int | None, int | None]]:
        told, self.told = self.told, []
        return told


def hops_to(holders: Collection[DeviceId]) -> int | None:
    return min({ANN: 2, BOB: 3}[holder] for holder in holders)


def test_what_is_asked_for_is_told_once_and_again_when_it_changes() -> None:
    world = World()
    world.routes.ask(FILE)
    world.routes.ask(FILE)
    assert world.news() == [(FILE, 100, 2)]
    world.offers.of[FILE] = (BOB,)
    world.routes.offers_changed(FILE)
    world.routes.offers_changed(OTHER)
    assert world.news() == [(FILE, 100, 3)]
    world.offers.of[FILE] = ()
    world.routes.refresh()
    assert world.news() == [(FILE, 100, None)]
    world.routes.forget(FILE)
    world.routes.refresh()
    assert world.news() == []


def test_sizes_are_believed_one_after_the_other_and_then_all_over_again() -> None:
    world = World()
    world.offers.sizes_of[FILE] = (100, 200, None)
    world.routes.ask(FILE)
    for _ in range(2):
        assert world.doubt(FILE)
    assert [size for _, size, _ in world.news()] == [100, 200, None]
    world.offers.sizes_of[FILE] = (100, 200)
    world.routes.refresh()
    assert [size for _, size, _ in world.news()] == [100]


def test_when_all_sizes_were_doubted_words_count_no_more_and_what_brings_nothing_does() -> None:
    world = World()
    world.offers.sizes_of[FILE] = (100, 200)
    world.routes.ask(FILE)
    assert [world.doubt(FILE) for _ in range(4)] == [True, True, False, False]
    assert [size for _, size, _ in world.news()] == [100, 200, 100]
    for _ in range(2):
        assert world.doubt(FILE, is_word=False)
    assert [size for _, size, _ in world.news()] == [200, 100]


def test_the_only_size_there_is_stays_and_its_doubt_counts_when_there_is_another() -> None:
    world = World()
    world.routes.ask(FILE)
    assert not world.doubt(FILE)
    world.offers.sizes_of[FILE] = (100, 200)
    world.routes.refresh()
    assert [size for _, size, _ in world.news()] == [100, 200]
    assert not world.doubt(OTHER), "nobody was told of any"


def test_files_asked_for_and_sizes_doubted_are_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "_MAX_ASKED", 2)
    world = World()
    for file_id in (FILE, OTHER, FILE, THIRD):
        world.routes.ask(file_id)
    world.news()
    world.offers.of = dict.fromkeys((FILE, OTHER, THIRD), (BOB,))
    world.routes.refresh()
    assert [file_id for file_id, _, _ in world.news()] == [FILE, THIRD]
    world.offers.sizes_of = dict.fromkeys((FILE, OTHER, THIRD), (100, 200))
    for file_id in (FILE, THIRD, OTHER):
        world.routes.ask(file_id)
        world.doubt(file_id)
    world.news()
    world.routes.ask(FILE)
    assert world.news() == [(FILE, 100, 3)], "its doubt was the oldest"


async def test_nothing_is_relayed_while_the_cache_rests(autojump_clock: MockClock) -> None:
    world = World()
    world.fetched = [OTHER]
    world.routes.ask(FILE)
    world.routes.ask(OTHER)
    assert world.news() == [(FILE, 100, 2), (OTHER, 100, 2)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.routes.run)
        await trio.sleep(1)
        world.routes.refuse()
        assert world.news() == [(FILE, 100, None)]
        await trio.sleep(4)
        world.routes.refuse()  # it rests from now on
        await trio.sleep(4)
        assert world.news() == []
        await trio.sleep(4.5)
        assert world.news() == [(FILE, 100, 2)]
        nursery.cancel_scope.cancel()


def test_what_is_not_fetched_any_more_is_told_anew_unless_a_peer_asks() -> None:
    world = World()
    world.fetched = [FILE, OTHER]
    world.routes.ask(OTHER)
    world.routes.refresh()
    assert len(world.news()) == 2
    for file_id in (FILE, OTHER):
        world.routes.ended(file_id)
    world.routes.refresh([FILE, OTHER])
    assert world.news() == [(FILE, 100, 2)]
