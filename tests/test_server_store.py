"""The server's database: what is saved is there after a restart, pools apart, all or nothing."""

import pytest

from poolnet.errors import StoreError
from poolnet.ids import DeviceId, PoolId, StatementId
from poolnet.server.events import PruneStatements, SaveJoined, SaveLeft, SaveStatements, StoredPool
from poolnet.server.store import open_pool_store
from poolnet.wire.sync_frames import RosterEntry

POOL, OTHER_POOL = PoolId(b"p" * 32), PoolId(b"o" * 32)
STATEMENTS = tuple((StatementId(bytes([number]) * 32), b"encoded %d" % number) for number in range(4))


def entry(number: int, place: int = 0) -> RosterEntry:
    return RosterEntry(node=DeviceId(bytes([number]) * 32), places=(place, 2**64 - 1, 2**63))


async def test_a_pool_is_the_same_after_a_restart(tmp_path):
    async with open_pool_store(tmp_path / "server.db") as store:
        assert await store.load(POOL) is None
        await store.save([SaveStatements(POOL, STATEMENTS[:2]), SaveJoined(POOL, 1, entry(1))])
        await store.save([SaveStatements(POOL, STATEMENTS[1:]), SaveJoined(POOL, 2, entry(2))])
    async with open_pool_store(tmp_path / "server.db") as store:
        encoded = tuple(data for _, data in STATEMENTS)
        assert await store.load(POOL) == StoredPool(encoded, 2, (entry(1), entry(2)))


async def test_the_roster_follows_joins_moves_and_departures(tmp_path):
    async with open_pool_store(tmp_path / "server.db") as store:
        await store.save(
            [SaveStatements(POOL, STATEMENTS), SaveJoined(POOL, 1, entry(1)), SaveJoined(POOL, 2, entry(2))]
        )
        await store.save([SaveJoined(POOL, 3, entry(1, place=77)), SaveLeft(POOL, 4, entry(2).node)])
        stored = await store.load(POOL)
    assert (stored.epoch, stored.roster) == (4, (entry(1, place=77),))


async def test_pools_are_apart(tmp_path):
    async with open_pool_store(tmp_path / "server.db") as store:
        await store.save([SaveStatements(POOL, STATEMENTS), SaveJoined(POOL, 5, entry(1))])
        await store.save([SaveStatements(OTHER_POOL, STATEMENTS[:1])])
        await store.save([SaveLeft(OTHER_POOL, 1, entry(1).node)])
        assert (await store.load(POOL)).roster == (entry(1),)
        assert await store.load(OTHER_POOL) == StoredPool((STATEMENTS[0][1],), 1, ())


async def test_pruning_keeps_what_it_says(tmp_path):
    async with open_pool_store(tmp_path / "server.db") as store:
        await store.save([SaveStatements(POOL, STATEMENTS), SaveStatements(OTHER_POOL, STATEMENTS)])
        await store.save([PruneStatements(POOL, (STATEMENTS[2][0], STATEMENTS[0][0]))])
        assert (await store.load(POOL)).statements == (STATEMENTS[0][1], STATEMENTS[2][1])
        assert len((await store.load(OTHER_POOL)).statements) == 4


async def test_a_save_that_fails_leaves_nothing_behind(tmp_path):
    async with open_pool_store(tmp_path / "server.db") as store:
        with pytest.raises(StoreError):  # a roster of a pool that is not there
            await store.save([SaveStatements(POOL, STATEMENTS), SaveJoined(OTHER_POOL, 1, entry(1))])
        assert await store.load(POOL) is None
        assert store.statistics().failed == 1
