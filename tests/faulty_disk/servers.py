"""What a sync server keeps: statements of pools, and their rosters."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from faulty_disk.subject import Step, Subject
from poolnet.ids import DeviceId, PoolId, StatementId
from poolnet.server.events import PruneStatements, SaveJoined, SaveLeft, SaveStatements
from poolnet.server.store import PoolStore, open_pool_store
from poolnet.wire.sync_frames import RosterEntry

_POOL, _OTHER = PoolId(b"p" * 32), PoolId(b"o" * 32)
_STATEMENTS: Final = tuple((StatementId(bytes([number]) * 32), b"encoded %d" % number) for number in range(6))
_ADA, _BOB = (RosterEntry(node=DeviceId(bytes([number]) * 32), places=(number, 7, 9)) for number in (1, 2))


def _open(directory: Path) -> AbstractAsyncContextManager[PoolStore]:
    return open_pool_store(directory / "server.db")


async def _observe(store: PoolStore) -> Any:
    return [str(await store.load(pool_id)) for pool_id in (_POOL, _OTHER)]


SERVER: Final = Subject(
    open=_open,
    steps=[
        Step("found", lambda store: store.save([SaveStatements(_POOL, _STATEMENTS[:2]), SaveJoined(_POOL, 1, _ADA)])),
        Step("join", lambda store: store.save([SaveJoined(_POOL, 2, _BOB)]), is_durable=False),
        Step("found another", lambda store: store.save([SaveStatements(_OTHER, _STATEMENTS[:3])])),
        Step("leave", lambda store: store.save([SaveLeft(_POOL, 3, _ADA.node)]), is_durable=False),
        Step("state", lambda store: store.save([SaveStatements(_POOL, _STATEMENTS[2:])])),
        Step(
            "prune",
            lambda store: store.save([PruneStatements(_OTHER, (_STATEMENTS[0][0],))]),
            is_durable=False,
        ),
    ],
    observe=_observe,
    belongs=["server.db", "server.db-journal"],  # SQLite leaves an empty journal alone
)
