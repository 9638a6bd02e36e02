"""A history of messages: appended, late, retracted, expired."""

import base64
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import attrs
from made_messages import POOL, make_message, make_text, make_tombstone

from faulty_disk.subject import Step, Subject
from poolnet.clock import Hlc
from poolnet.message_db import MessageDB, Retention, open_message_db
from poolnet.storage import sqlite_worker
from poolnet.wire.claims import HIGHEST, LOWEST

_FIRST: Final = [make_text(1000, "one"), make_text(2000, "Zanzibar"), make_text(3000, "three")]
_MORE: Final = [make_message(n, body=bytes(500)) for n in range(4000, 4012)]
_LATE: Final = [make_text(1500, "between"), make_text(500, "before")]
_LATER: Final = [make_text(n, f"later {n}") for n in range(5000, 5005)]


def _open(directory: Path) -> AbstractAsyncContextManager[MessageDB]:
    return open_message_db(directory / "messages.db", POOL)


def _open_with_small_log(directory: Path) -> AbstractAsyncContextManager[MessageDB]:
    sqlite_worker._LOG_SIZE = 20_000
    return _open(directory)


async def _append_soon(db: MessageDB) -> None:
    if not db.unsaved:
        for message in _LATER:
            db.append_soon(message)
    await db.flush()


async def _observe(db: MessageDB) -> Any:
    messages = await db.latest(1000)
    summary = await db.summary(LOWEST, HIGHEST)
    floor = await db.floor()
    assert len(messages) == db.statistics().messages
    if floor == LOWEST:
        assert summary.count == len(messages)
    assert bool(await db.search("zanzibar")) == (_FIRST[1] in messages)
    known_from = await db.known_from()
    return [
        [base64.b16encode(message.msg_id[:4]).decode() for message in messages],
        [floor[0], base64.b16encode(floor[1]).decode()],
        None if known_from is None else known_from[0],
        db.retention.max_count,
        [session.count for session in await db.sessions()],
        str(summary),
    ]


HISTORY: Final = Subject(
    open=_open,
    steps=[
        Step("append", lambda db: db.append(_FIRST, durable=True)),
        Step("append relaxed", lambda db: db.append(_MORE), is_durable=False),
        Step("known from", lambda db: db.set_known_from((Hlc(900), b""))),
        Step("append soon", _append_soon, is_durable=False),
        Step("sync", lambda db: db.sync()),
        Step("append late", lambda db: db.append(_LATE, durable=True)),
        Step("retract", lambda db: db.append([make_tombstone(6000, _FIRST[1])])),
        Step("retention", lambda db: db.set_retention(Retention(max_count=6))),
        Step("expire", lambda db: db.expire(0), is_durable=False),
        Step("sync again", lambda db: db.sync()),
    ],
    observe=_observe,
    belongs=["messages.db", "messages.db-journal"],  # SQLite leaves an empty journal alone
)

#: The same, but what is in the log is brought to the database every few pages.
HISTORY_WITH_SMALL_LOG: Final = attrs.evolve(HISTORY, open=_open_with_small_log)
