"""What is taken back, expires or is damaged: it is gone, from every list and from the disk."""

import random
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from made_messages import POOL, make_message, make_said, make_text, make_tombstone

from poolnet.clock import Hlc, hlc_ms, make_hlc
from poolnet.errors import LocalError, UnknownMessage
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.message_db import STANDING_KINDS, MessageDB, Retention, open_message_db
from poolnet.wire.bodies import (
    OFFER_KINDS,
    AnnouncementBody,
    OfferBody,
    ProfileBody,
)
from poolnet.wire.claims import HIGHEST, LOWEST
from poolnet.wire.message import Message

ADMIN = make_message(0, author=9).author


def admin_from_5(device: DeviceId, hlc: Hlc) -> bool:
    return device == ADMIN and hlc >= 5


def contents(directory: Path) -> dict[str, bytes]:
    """Return what is in the files of a directory, by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def files_with(directory: Path, word: str) -> list[str]:
    """Return which files in a directory hold these bytes, wherever."""
    return [name for name, content in contents(directory).items() if word.lower().encode() in content.lower()]


async def is_gone(db: MessageDB, message: Message, tmp_path: Path, word: str) -> bool:
    """Return whether no method of an open history tells of a message, and no file of it."""
    with pytest.raises(UnknownMessage):
        await db.around(message.msg_id, 1)
    await db.export(tmp_path / "export.jsonl")
    await db.export(tmp_path / "export.md", format="markdown")
    found = [
        await db.search(word),
        await db.get([message.msg_id]),
        [m for m in await db.latest(10_000) if m == message],
        files_with(tmp_path, word),
    ]
    for name in ("export.jsonl", "export.md"):
        (tmp_path / name).unlink()
    return not any(found)


@pytest.mark.parametrize("tombstone_first", [False, True])
@pytest.mark.parametrize("author", [1, 9], ids=["its author", "an admin"])
async def test_what_is_retracted_is_gone_and_does_not_come_back(
    tmp_path: Path, author: int, tombstone_first: bool
) -> None:
    told: list[tuple[MsgId, Message]] = []
    message, tombstone = make_text(3, "Zanzibar tonight", author=1), None
    tombstone = make_tombstone(7, message, author=author)

    def note(msg_id: MsgId, because_of: Message) -> None:
        told.append((msg_id, because_of))

    async with open_message_db(tmp_path / "m.db", POOL, was_admin=admin_from_5, retracted=note) as db:
        if not tombstone_first:
            assert await db.append([message]) == [message]
            assert files_with(tmp_path, "zanzibar")
        assert await db.append([tombstone]) == [tombstone]
        assert told == ([] if tombstone_first else [(message.msg_id, tombstone)])
        assert await db.append([message], durable=True) == []
        assert await is_gone(db, message, tmp_path, "zanzibar")
        assert db.statistics().refused == 1
        assert db.statistics().retracted == len(told)
    async with open_message_db(tmp_path / "m.db", POOL, was_admin=admin_from_5) as db:
        assert await db.append([message]) == []
        assert await is_gone(db, message, tmp_path, "zanzibar")
        assert await db.latest(10) == [tombstone]
    assert not files_with(tmp_path, "zanzibar")


async def test_a_batch_with_a_message_and_its_tombstone_stores_only_the_tombstone(tmp_path: Path) -> None:
    message = make_text(3, "Zanzibar")
    tombstone = make_tombstone(2, message)
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert await db.append([message, tombstone]) == [tombstone]
        assert await is_gone(db, message, tmp_path, "zanzibar")


async def test_only_its_author_or_an_admin_can_retract_a_message(tmp_path: Path) -> None:
    message = make_text(3, "hello", author=1)
    by_other, too_early = make_tombstone(7, message, author=2), make_tombstone(4, message, author=9)
    async with open_message_db(tmp_path / "m.db", POOL, was_admin=admin_from_5) as db:
        assert await db.append([by_other, message, too_early]) == [message, too_early, by_other]
        assert await db.search("hello") == [message]


async def test_a_tombstone_cannot_be_retracted_and_a_malformed_one_does_nothing(tmp_path: Path) -> None:
    message = make_text(3, "hello")
    tombstone = make_tombstone(4, message)
    again = make_tombstone(5, tombstone)
    malformed = make_message(6, kind="retract_message", body=b"\xff")
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([message])
        assert await db.append([again, tombstone, malformed]) == [tombstone, again, malformed]
        assert await db.latest(10) == [tombstone, again, malformed]
        assert await db.append([message]) == []


async def test_when_it_turns_out_who_was_an_admin_retractions_follow(tmp_path: Path) -> None:
    admins: set[DeviceId] = set()
    told: list[MsgId] = []
    message = make_text(3, "hello", author=1)
    tombstone = make_tombstone(7, message, author=9)
    async with open_message_db(
        tmp_path / "m.db",
        POOL,
        was_admin=lambda device, _hlc: device in admins,
        retracted=lambda msg_id, _tombstone: told.append(msg_id),
    ) as db:
        await db.append([message, tombstone])
        assert await db.recheck_retractions() == []
        admins.add(ADMIN)
        assert await db.recheck_retractions() == told == [message.msg_id]
        assert await db.append([message]) == []
        assert await db.count() == 1
        admins.clear()
        assert await db.recheck_retractions() == []
        assert await db.append([message]) == [message]


async def test_what_removed_members_wrote_afterwards_is_deleted_and_so_are_their_retractions(tmp_path: Path) -> None:
    kept = make_text(3, "kept", author=1)
    before, after = make_text(4, "before", author=2), make_text(6, "Zanzibar", author=2)
    tombstone = make_tombstone(7, kept, author=9)
    ends = {before.author: Hlc(4), ADMIN: Hlc(6)}
    async with open_message_db(tmp_path / "m.db", POOL, was_admin=admin_from_5) as db:
        await db.append([kept, before, after, tombstone])
        assert await db.delete_after({}) == []
        assert await db.delete_after(ends) == [after.msg_id, tombstone.msg_id]
        assert await is_gone(db, after, tmp_path, "zanzibar")
        assert await db.append([kept]) == [kept]
        assert await db.latest(10) == [kept, before]


async def test_nothing_of_what_is_retracted_stays_on_disk_wherever_it_was(tmp_path: Path) -> None:
    """Many messages, in any order: pages of the database are split, merged and moved under them."""
    rng = random.Random(5)
    messages = [make_text(make_hlc(n), f"Secret{n:05} " + "filler " * rng.randrange(40)) for n in range(4500)]
    by_arrival = rng.sample(messages, len(messages))
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        for start in range(0, len(by_arrival), 150):
            await db.append(by_arrival[start : start + 150])
        for count in (1, 100, 700):
            victims = rng.sample(messages, count)
            messages = [m for m in messages if m not in victims]
            await db.append([make_tombstone(0, message) for message in victims])
            content = b"".join(contents(tmp_path).values()).lower()
            assert [m for m in victims if b"secret%05d" % hlc_ms(m.content.hlc) in content] == []
            assert await db.search("secret*", limit=10_000) == messages


async def test_a_process_that_died_after_a_retraction_leaves_no_text_behind(tmp_path: Path) -> None:
    """What was in the WAL of a process that was killed is not read any more, but it is there; opening empties it."""
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        message = make_text(1, "Zanzibar")
        await db.append([message])
        killed = contents(tmp_path)
        await db.append([make_tombstone(2, message)])
        done = (tmp_path / "m.db").read_bytes()
    assert "m.db-wal" in killed
    (tmp_path / "m.db").write_bytes(done)
    (tmp_path / "m.db-wal").write_bytes(bytes(32) + killed["m.db-wal"][32:])  # with a header that SQLite ignores
    assert files_with(tmp_path, "zanzibar")
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert files_with(tmp_path, "zanzibar") == []
        assert await db.search("zanzibar") == []


# --- retention ----------------------------------------------------------------------------------------------------


def _minutes(numbers: Iterable[int], word: str = "at") -> list[Message]:
    return [make_text(make_hlc(n * 60_000), f"{word} {n}") for n in numbers]


async def test_offers_of_every_kind_stay_when_all_around_them_expire(tmp_path: Path) -> None:
    offers = [make_message(make_hlc(61_000 + n), kind=kind, body=b"") for n, kind in enumerate(sorted(OFFER_KINDS))]
    new = _minutes(range(50, 52))
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([*_minutes(range(2)), *offers, *new])
        await db.set_retention(Retention(max_count=2))
        await db.expire(100 * 60_000)
        assert await db.latest(100) == [*offers, *new]
        assert await db.of_kinds(STANDING_KINDS) == offers


async def test_messages_expire_by_age_and_are_not_taken_again(tmp_path: Path) -> None:
    old, new = _minutes(range(1, 50)), _minutes(range(50, 100))
    profile = make_said(make_hlc(60_000), ProfileBody(name="Ann"))
    offer = make_said(make_hlc(61_000), OfferBody(file_id=FileId(bytes(32)), name="tree.jpg", size=1))
    late_profile = make_said(make_hlc(62_000), ProfileBody(name="Bea"), author=1)
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([*old, profile, offer, *new])
        await db.set_known_from(LOWEST)
        assert await db.expire(100 * 60_000) == 0
        await db.set_retention(Retention(max_age_s=50 * 60))
        assert await db.expire(100 * 60_000) == len(old)
        assert await db.expire(100 * 60_000) == 0
        assert await db.latest(1000) == [profile, offer, *new]
        assert await db.search("tree") == [offer]
        assert await db.floor() == await db.known_from() == (make_hlc(50 * 60_000), b"")
        assert await db.append([*old, late_profile]) == [late_profile]
        assert db.statistics().refused == len(old)
        assert (await db.summary(LOWEST, HIGHEST)).count == len(new)
        assert [session.count for session in await db.sessions()] == [len(new)]
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert db.retention == Retention(max_age_s=50 * 60)
        assert files_with(tmp_path, "at 49") == []
        assert files_with(tmp_path, "at 50") == ["m.db"]
        assert await db.append(old) == []
        await db.set_retention(Retention())
        assert await db.floor() == LOWEST
        assert (await db.summary(LOWEST, HIGHEST)).count == len(new) + 3
        assert await db.append(old) == old


async def test_the_newest_message_stays_however_old_it_is(tmp_path: Path) -> None:
    messages = _minutes(range(5))
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(messages)
        await db.set_retention(Retention(max_age_s=1))
        assert await db.expire(10**9) == 4
        assert await db.latest(10) == messages[4:]


async def test_a_history_that_grows_beyond_its_limit_expires_by_itself(tmp_path: Path) -> None:
    messages = _minutes(range(1, 2000))
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.set_retention(Retention(max_count=500))
        for start in range(0, len(messages), 40):
            assert await db.append(messages[start : start + 40]) == messages[start : start + 40]
            assert await db.count() <= 500 + 140
        await db.expire(0)
        assert await db.latest(1000) == messages[-500:]


@pytest.mark.parametrize("wrong", [{"max_age_s": 0.0}, {"max_count": -1}])
def test_a_retention_that_keeps_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(LocalError, match="more than 0"):
        Retention(**wrong)


async def test_known_from_is_remembered_and_never_below_the_floor(tmp_path: Path) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert await db.known_from() is None
        await db.set_known_from((7, b"\x01\x02"))
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert await db.known_from() == (7, b"\x01\x02")
        await db.append([make_message(n) for n in range(10)])
        await db.set_retention(Retention(max_count=1))
        await db.expire(0)
        await db.set_known_from(LOWEST)
        assert await db.known_from() == await db.floor() == make_message(9).key


async def test_transactions_of_tasks_at_the_same_time_leave_the_right_counts(tmp_path: Path) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        async with trio.open_nursery() as nursery:
            for n in range(40):
                nursery.start_soon(
                    db.append, [make_text(n, "a", author=n % 3), make_said(n, AnnouncementBody(text="b"))]
                )
            nursery.start_soon(db.set_retention, Retention(max_count=1000))
        assert await db.count() == 80
        assert db.retention.max_count == 1000
