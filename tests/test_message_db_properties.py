"""MessageDB against plain sets and lists, after any mix of changes; blocks and volumes against a recomputation."""

import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from made_messages import POOL, make_message, make_said, make_text, make_tombstone

from poolnet.clock import Hlc, hlc_ms, make_hlc
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.limits import SESSION_GAP_S
from poolnet.message_db import STANDING_KINDS, MessageDB, Retention, Session, open_message_db
from poolnet.protocol.key_set import KeySet, MemoryKeys, Summary
from poolnet.storage import message_blocks, message_changes, message_volumes
from poolnet.storage.message_schema import IS_STANDING
from poolnet.wire.bodies import OfferBody, ProfileBody, RetractMessageBody, decode_body_untrusted
from poolnet.wire.claims import HIGHEST, LOWEST, Bound
from poolnet.wire.message import Message

GAP_MS = round(SESSION_GAP_S * 1000)
AUTHORS = (0, 1, 2)


def _universe() -> list[Message]:
    """Make all messages of the tests: times in clusters, several of one time, three authors, all sorts of kinds."""
    rng = random.Random(4)
    times = [n * GAP_MS // 2 + rng.choice([0, 0, 1, GAP_MS // 3]) for n in range(20) for _ in range(3)]
    messages = []
    for number, time in enumerate(times):
        author: int = rng.choice(AUTHORS)
        hlc = make_hlc(10**6 + time, rng.choice([0, 0, 1]))
        kinds = (
            make_text(hlc, f"word{number} and", author=author),
            make_text(hlc, f"word{number} or", author=author),
            make_said(hlc, ProfileBody(name=f"name {number}"), author=author),
            make_said(hlc, OfferBody(file_id=FileId(bytes(32)), name=f"word{number}.txt", size=1), author=author),
            make_message(hlc, kind="newer", body=bytes([number]), author=author),
        )
        messages.append(rng.choice(kinds))
    for number in range(30):
        target = rng.choice(messages)  # a tombstone, now and then
        time = target.content.hlc + rng.choice([-1, 1]) * make_hlc(GAP_MS * rng.randrange(3)) + number
        messages.append(make_tombstone(max(0, time), target, author=rng.choice([*AUTHORS, 2])))
    return messages


UNIVERSE = _universe()
DEVICES = {number: make_message(0, author=number).author for number in AUTHORS}


@attrs.define
class Model:
    """What a history is: a set of messages, and who was an admin from when on."""

    stored: set[Message] = attrs.Factory(set)
    admin_from: dict[DeviceId, int] = attrs.Factory(dict)
    floor: Bound = LOWEST
    retention: Retention = attrs.Factory(Retention)

    def was_admin(self, device: DeviceId, hlc: Hlc) -> bool:
        return hlc >= self.admin_from.get(device, 2**63)

    def ordered(self) -> list[Message]:
        return sorted(self.stored, key=lambda message: message.key)

    def kept(self) -> list[Message]:
        """Return what is compared with others."""
        return [message for message in self.ordered() if message.key >= self.floor]

    def append(self, batch: Sequence[Message]) -> list[Message]:
        before = set(self.stored)
        self.stored |= {m for m in batch if m.key >= self.floor or m.content.kind in STANDING_KINDS}
        self.retract()
        return sorted(self.stored - before, key=lambda message: message.key)

    def retract(self) -> None:
        tombstones = [(target, m) for m in self.stored if (target := target_of(m)) is not None]
        retracted = {
            (target, m.author if not self.was_admin(m.author, m.content.hlc) else None) for target, m in tombstones
        }
        self.stored = {
            m
            for m in self.stored
            if target_of(m) is not None or ((m.msg_id, m.author) not in retracted and (m.msg_id, None) not in retracted)
        }

    def delete_after(self, ends: dict[DeviceId, Hlc]) -> list[MsgId]:
        gone = [m for m in self.ordered() if m.author in ends and m.content.hlc > ends[m.author]]
        self.stored -= set(gone)
        return [m.msg_id for m in gone]

    def set_retention(self, retention: Retention) -> None:
        if retention != self.retention:
            self.retention, self.floor = retention, LOWEST

    def expire(self, unix_ms: int) -> int:
        kept = self.kept()
        if not kept:
            return 0
        due = LOWEST
        if self.retention.max_age_s is not None:
            due = (make_hlc(max(0, unix_ms - round(self.retention.max_age_s * 1000))), b"")
        if self.retention.max_count is not None and len(kept) >= self.retention.max_count:
            due = max(due, kept[-self.retention.max_count].key)
        self.floor = max(self.floor, min(due, kept[-1].key))
        before = len(self.stored)
        self.stored = {m for m in self.stored if m.key >= self.floor or m.content.kind in STANDING_KINDS}
        return before - len(self.stored)

    def sessions(self) -> list[Session]:
        runs: list[list[Message]] = []
        for message in self.kept():
            if not runs or hlc_ms(message.content.hlc) - hlc_ms(runs[-1][-1].content.hlc) > GAP_MS:
                runs.append([])
            runs[-1].append(message)
        return [
            Session(
                start=run[0].key,
                end=run[-1].key,
                count=len(run),
                participants=tuple(sorted({m.author for m in run})),
            )
            for run in runs
        ]


def target_of(message: Message) -> MsgId | None:
    if message.content.kind != RetractMessageBody.KIND:
        return None
    body = decode_body_untrusted(message.content.kind, message.content.body)
    assert isinstance(body, RetractMessageBody)
    return body.msg_id


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let blocks, volumes and steps be so small that a few messages need several."""
    monkeypatch.setattr(message_blocks, "BLOCK_SIZE", 4)
    monkeypatch.setattr(message_volumes, "VOLUME_SIZE", 6)
    monkeypatch.setattr(message_volumes, "_SPLIT_SIZE", 12)
    monkeypatch.setattr(message_changes, "_EXPIRY_BATCH", 5)


_NUMBERS = st.integers(0, len(UNIVERSE) - 1)
_AUTHOR = st.sampled_from(AUTHORS)
_TIME = st.sampled_from(sorted({m.content.hlc for m in UNIVERSE}))
_APPEND = st.tuples(st.just("append"), st.lists(_NUMBERS, max_size=25))
_CHANGES = st.one_of(
    _APPEND,
    _APPEND,
    _APPEND,
    st.tuples(st.just("admin"), _AUTHOR, st.none() | _TIME),
    st.tuples(st.just("purge"), st.dictionaries(_AUTHOR, _TIME, max_size=2)),
    st.tuples(
        st.just("retain"), st.one_of(st.none(), st.integers(1, 3600 * 5)), st.one_of(st.none(), st.integers(1, 30))
    ),
    st.tuples(st.just("expire"), _TIME),
    st.tuples(st.just("reopen")),
)


@settings(max_examples=60)
@given(operations=st.lists(_CHANGES, max_size=12))
def test_any_mix_of_changes_leaves_what_a_plain_set_would_hold(
    operations: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("db") / "m.db"

    async def run() -> None:
        model = Model()
        remaining = operations
        while remaining:
            async with open_message_db(path, POOL, was_admin=model.was_admin) as db:
                while remaining:
                    operation, *remaining = remaining
                    if operation[0] == "reopen":
                        break
                    await _perform(db, model, operation)
                    await _check(db, model)
            check_parts(path)

    trio.run(run)


async def _perform(db: MessageDB, model: Model, operation: tuple[Any, ...]) -> None:
    match operation:
        case ("append", numbers):
            batch = [UNIVERSE[number] for number in numbers]
            gone = model.stored
            assert await db.append(batch) == model.append(batch)
            assert db.statistics().retracted <= len(gone) + db.statistics().appended
        case ("admin", author, since):
            model.admin_from.pop(DEVICES[author], None)
            if since is not None:
                model.admin_from[DEVICES[author]] = since
            before = model.stored
            model.retract()
            assert set(await db.recheck_retractions()) == {m.msg_id for m in before - model.stored}
        case ("purge", ends):
            by_device = {DEVICES[author]: Hlc(hlc) for author, hlc in ends.items()}
            assert await db.delete_after(by_device) == model.delete_after(by_device)
        case ("retain", age, count):
            retention = Retention(max_age_s=age, max_count=count)
            await db.set_retention(retention)
            model.set_retention(retention)
        case ("expire", hlc):
            assert await db.expire(hlc_ms(hlc)) == model.expire(hlc_ms(hlc))


async def _check(db: MessageDB, model: Model) -> None:
    ordered = model.ordered()
    assert await db.latest(1000) == ordered
    assert await db.count() == db.statistics().messages == len(ordered)
    assert await db.floor() == model.floor
    assert db.retention == model.retention
    assert await db.sessions() == model.sessions()
    found = await db.search("word*", limit=1000)
    assert found == [m for m in ordered if b"word" in m.content.body]
    keys = [m.key for m in model.kept()]
    assert await db.summary(LOWEST, HIGHEST) == MemoryKeys(keys).summary(LOWEST, HIGHEST)
    standing = MemoryKeys(m.key for m in ordered if m.content.kind in STANDING_KINDS)
    assert await db.with_standing_keys(partial(_all_of, len(standing))) == _all_of(len(standing), standing)


def _all_of(count: int, keys: KeySet) -> tuple[Any, ...]:
    newest = [keys.nth_newest(HIGHEST, number) for number in range(1, count + 2)]
    starts = [keys.session_start((key[0], key[1] + b"\0")) for key in newest if key is not None]
    return keys.summary(LOWEST, HIGHEST), keys.keys(LOWEST, HIGHEST, 1000), newest, starts


def check_parts(path: Path) -> None:
    """Check that blocks and volumes of a closed database are what its messages come to."""
    connection = sqlite3.connect(path)
    floor = connection.execute("SELECT value FROM settings WHERE name = 'floor'").fetchone()
    lower: Bound = LOWEST
    if floor:
        hlc, prefix = json.loads(floor[0])
        lower = (hlc, bytes.fromhex(prefix))
    rows = connection.execute("SELECT hlc, msg_id, author FROM messages ORDER BY hlc, msg_id").fetchall()
    rows = [(hlc, msg_id, author) for hlc, msg_id, author in rows if (hlc, msg_id) >= lower]
    _check_blocks(connection, rows, message_blocks.HISTORY)
    query = f"SELECT hlc, msg_id, author FROM messages WHERE {IS_STANDING} ORDER BY hlc, msg_id"
    _check_blocks(connection, connection.execute(query).fetchall(), message_blocks.STANDING)
    _check_volumes(connection)
    connection.close()


def _check_blocks(
    connection: sqlite3.Connection, rows: list[tuple[int, bytes, int]], sums: message_blocks.Sums
) -> None:
    start = 0
    for block in message_blocks.read_blocks(connection, LOWEST, HIGHEST, sums):
        inside = rows[start : start + block.count]
        keys = [(Hlc(hlc), MsgId(msg_id)) for hlc, msg_id, _ in inside]
        assert 0 < block.count <= 4
        assert (block.first, block.last) == (keys[0], keys[-1])
        assert block.total == sum(int.from_bytes(msg_id, "big") for _, msg_id in keys) % 2**256
        assert block.authors == {author for _, _, author in inside}
        if sums.by_session:
            assert not any(message_blocks.is_new_session(one, other) for one, other in pairwise(keys))
        start += block.count
    assert start == len(rows)


def _check_volumes(connection: sqlite3.Connection) -> None:
    places = {place for (place,) in connection.execute("SELECT place FROM messages")}
    volumes = message_volumes.read_volumes(connection)
    assert all(one.last < other.first for one, other in pairwise(volumes))
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'bodies%'")}
    assert tables == {volume.bodies for volume in volumes}
    for volume in volumes:
        inside = [place for (place,) in connection.execute(f"SELECT place FROM {volume.bodies} ORDER BY place")]
        assert 0 < len(inside) == volume.count < 12
        assert volume.first <= inside[0] <= inside[-1] <= volume.last
        assert {rowid for (rowid,) in connection.execute(f"SELECT rowid FROM {volume.words}")} <= set(inside)
        places -= set(inside)
    assert not places


def _bounds(messages: Sequence[Message], rng: random.Random) -> Iterator[Bound]:
    """Yield bounds of all sorts near these messages."""
    yield LOWEST
    yield HIGHEST
    for message in messages:
        hlc, msg_id = message.key
        yield rng.choice([(hlc, msg_id), (hlc, msg_id[:3]), (hlc, b""), (hlc, msg_id + b"\0"), (hlc + 1, b"")])


@settings(max_examples=40)
@given(numbers=st.lists(_NUMBERS, max_size=80), floor=st.booleans(), seed=st.integers(0, 1000))
def test_keys_for_reconciliation_are_those_of_a_sorted_list(
    numbers: list[int], floor: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    messages = [m for number in numbers if (m := UNIVERSE[number]).content.kind != RetractMessageBody.KIND]

    def compare(keys: KeySet, model: KeySet, bounds: list[Bound]) -> None:
        for _ in range(10):
            lower, upper = sorted(rng.sample(bounds, 2))
            count = rng.randrange(1, 20)
            assert keys.summary(lower, upper) == model.summary(lower, upper)
            assert keys.keys(lower, upper, count) == model.keys(lower, upper, count)
            assert keys.nth_newest(upper, count) == model.nth_newest(upper, count)
            assert keys.session_start(upper) == model.session_start(upper)
            _check_cut(keys.parts(lower, upper, count), model, lower, upper, count)

    async def check() -> None:
        async with open_message_db(tmp_path_factory.mktemp("db") / "m.db", POOL) as db:
            for start in range(0, len(messages), 7):
                await db.append(messages[start : start + 7])
            if floor:
                await db.set_retention(Retention(max_count=len(messages) // 2 + 1))
                await db.expire(0)
            stored = await db.latest(1000)
            begin = await db.floor()
            model = MemoryKeys([m.key for m in stored if m.key >= begin])
            await db.with_keys(lambda keys: compare(keys, model, sorted(set(_bounds(stored, rng)))))
            standing = MemoryKeys([m.key for m in stored if m.content.kind in STANDING_KINDS])
            await db.with_standing_keys(lambda keys: compare(keys, standing, sorted(set(_bounds(stored, rng)))))

    trio.run(check)


def _check_cut(parts: list[tuple[Bound, Summary]], model: KeySet, lower: Bound, upper: Bound, count: int) -> None:
    """Check that parts are a cut of the range: of about equal size, none empty, with bounds that tell keys apart."""
    total = model.summary(lower, upper).count
    assert parts[-1][0] == upper
    assert len(parts) == max(1, min(count, total))
    for (start, _), (end, summary) in pairwise([(lower, Summary()), *parts]):
        assert summary == model.summary(start, end)
        assert start < end
        assert not total or total / len(parts) / 2 - 1 <= summary.count <= total / len(parts) * 1.5 + 1


@settings(max_examples=30)
@given(orders=st.permutations(range(len(UNIVERSE))), cut=st.integers(1, 30), limit=st.integers(1, 6))
def test_sessions_and_summaries_do_not_depend_on_the_order_of_arrival(
    orders: list[int], cut: int, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = Model()
    model.append(UNIVERSE)

    async def check() -> None:
        async with open_message_db(tmp_path_factory.mktemp("db") / "m.db", POOL) as db:
            for start in range(0, len(orders), cut):
                await db.append([UNIVERSE[number] for number in orders[start : start + cut]])
            await _check(db, model)
            pages: list[Session] = []
            while page := await db.sessions(limit=limit, before=pages[0].start if pages else None):
                assert len(page) <= limit
                pages = page + pages
            assert pages == model.sessions()
            for session in pages:  # a place within a session is after it began
                assert (await db.sessions(limit=1, before=(session.start[0], session.start[1] + b"\0")))[-1] == session

    trio.run(check)


@settings(max_examples=30)
@given(
    first=st.lists(_NUMBERS, min_size=1, max_size=60),
    later=st.lists(_NUMBERS, max_size=60),
    size=st.integers(1, 5),
    backwards=st.booleans(),
)
def test_paging_visits_each_message_once_while_others_arrive(
    first: list[int], later: list[int], size: int, backwards: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = [m for m in UNIVERSE if m.content.kind == "text"]

    async def check() -> None:
        async with open_message_db(tmp_path_factory.mktemp("db") / "m.db", POOL) as db:
            there = await db.append([texts[number % len(texts)] for number in first])
            arriving = [texts[number % len(texts)] for number in later]
            seen: list[Message] = []
            at: Bound = HIGHEST if backwards else LOWEST
            while page := await (db.before(at, size) if backwards else db.after(at, size)):
                seen = page + seen if backwards else seen + page
                at = page[0].key if backwards else page[-1].key
                if arriving:
                    await db.append([arriving.pop()])
            assert seen == sorted(set(seen), key=lambda message: message.key)
            assert set(there) <= set(seen)

    trio.run(check)
