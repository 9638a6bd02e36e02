"""A home: its key, profile and settings, the records and statements of its pools, and a pool that is forgotten."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from faulty_disk.subject import Step, Subject, each_part_may_be
from poolnet.clock import make_hlc
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Role, make_genesis, make_role
from poolnet.ids import PoolId
from poolnet.pool.records import PoolRecord, PoolRecords
from poolnet.storage.home import Home, Profile, open_home
from poolnet_cli.settings import read_settings, write_setting

_KEY, _OTHER = DeviceKey.from_seed(bytes(32)), DeviceKey.from_seed(bytes([1]) * 32)
_POOLS: Final = [make_genesis(_KEY, name=name, nonce=bytes(16), hlc=make_hlc(1000)) for name in ("garden", "attic")]
_GARDEN, _ATTIC = (PoolId(genesis.statement_id) for genesis in _POOLS)
_MORE: Final = make_role(_KEY, pool_id=_GARDEN, device=_OTHER.device_id, role=Role.ADMIN, hlc=make_hlc(2000))


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[Home]:
    async with open_home(directory / "home") as home:
        yield home


def _record(home: Home, pool_id: PoolId, name: str) -> PoolRecord:
    return PoolRecord(pool_id=pool_id, name=name, servers=(), directory=home.pool_directory(pool_id))


def _membership(number: int, *, more: bool = False) -> Membership:
    membership = Membership(PoolId(_POOLS[number].statement_id))
    membership.add(_POOLS[number])
    if more:
        membership.add(_MORE)
    return membership


async def _save_profile(home: Home) -> None:
    await home.save_profile(Profile(name="Ada", user=hashlib.sha256(home.seed).digest()))


async def _set_limit(home: Home, mib: int) -> None:
    write_setting(home.path, "limit-up", mib << 20)


async def _observe(home: Home) -> Any:
    profile = await home.profile()
    if profile.user is not None:
        assert profile.user == hashlib.sha256(home.seed).digest(), "the device has another key now"
    records = PoolRecords(home)
    known = records.all()
    assert {record.pool_id for record in known} <= set(home.pool_ids())
    statements = {record.name: len(list(records.membership(record).statements())) for record in known}
    return [profile.name, read_settings(home.path).limits.up, statements]


HOME: Final = Subject(
    open=_open,
    steps=[
        Step("profile", _save_profile),
        Step("settings", lambda home: _set_limit(home, 24)),
        Step("pool", lambda home: PoolRecords(home).save(_record(home, _GARDEN, "garden"), _membership(0))),
        Step("pool again", lambda home: PoolRecords(home).save(_record(home, _ATTIC, "attic"), _membership(1))),
        Step(
            "statements",
            lambda home: PoolRecords(home).save_statements(_record(home, _GARDEN, "garden"), _membership(0, more=True)),
        ),
        Step("settings again", lambda home: _set_limit(home, 12)),
        Step("forget", lambda home: home.forget_pool(_ATTIC)),
    ],
    observe=_observe,
    belongs=[
        "home/lock",
        "home/device.key",
        "home/profile.json",
        "home/settings.json",
        "home/pools/*/pool.json",
        "home/pools/*/statements.json",
    ],
    may_be=each_part_may_be,
)
