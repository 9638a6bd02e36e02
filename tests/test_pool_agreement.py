"""Whole nodes whose histories come to agree: who was away, what was taken back, what is older than the window."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from test_pool import Member, World, enter
from trio.testing import MockClock

import poolnet
from poolnet.clock import make_hlc
from poolnet.identity.authorship import sign_message
from poolnet.limits import MAX_APP_SIZE, RECENT_MESSAGES
from poolnet.wire.bodies import AnnouncementBody, ProfileBody, RetractMessageBody, TextBody, decode_body_untrusted
from poolnet.wire.message import Message, MessageContent, encode_content, message_id

pytestmark = pytest.mark.timeout(240)

DAY_MS = 24 * 3600 * 1000


async def history(member: Member) -> list[str | None]:
    """Return the texts that people read, in the order of the pool."""
    return [entry.text for entry in await member.pool.history.latest(1000)]


async def agree(*members: Member) -> list[str | None]:
    """Wait until these members agree with their neighbours; return their one history."""
    for member in members:
        await member.pool.synced(60)
    first, *others = [await history(member) for member in members]
    assert all(other == first for other in others)
    return first


def written_long_ago(member: Member, count: int, *, days: int) -> list[Message]:
    """Return texts by a member, one a minute from so many days ago on."""
    start_ms = member.pool.unix_ms - days * DAY_MS
    return [
        sign_message(
            member.node._own.key,
            pool_id=member.pool.pool_id,
            hlc=make_hlc(start_ms + number * 60_000),
            body=TextBody(text=f"old {number}"),
        )
        for number in range(count)
    ]


def read_databases(directory: Path) -> bytes:
    """Return all that is in the files of the histories below a directory."""
    return b"".join(file.read_bytes() for file in directory.rglob("messages.db*"))


def damage_database(directory: Path) -> None:
    """Overwrite the one history below a directory."""
    [database] = directory.rglob("messages.db")
    database.write_bytes(b"garbage" * 1000)


def damage_messages(directory: Path) -> None:
    """Overwrite half of the one history below a directory; how it begins, which is read first, stays as it is."""
    [database] = directory.rglob("messages.db")
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2] + b"garbage!" * (len(content) // 16))


async def test_who_was_away_has_everything_from_the_only_one_that_is_there(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with (
        world.server() as server,
        world.node("ada") as ada_node,
        world.node("bob") as bob_node,
        world.node("cyd") as cyd_node,
    ):
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, invite, "ada") as ada:
            async with enter(bob_node, invite, "bob") as bob:
                async with enter(cyd_node, invite, "cyd") as cyd:
                    await ada.pool.send("cyd is here")
                    await cyd.hears("cyd is here")
                for number in range(150):
                    await (ada if number % 2 else bob).pool.send(f"talk {number}")
                await bob.hears("talk 149")
                talk = await agree(ada, bob)
            assert len(talk) == 151
            async with enter(cyd_node, "garden", "cyd") as cyd:
                await cyd.hears("talk 0", "talk 149")
                assert await agree(cyd, ada) == talk
                heard = [event for event in cyd.events if isinstance(event, poolnet.MessageReceived)]
                assert {event.name for event in heard} == {"ada", "bob"}, "names are known before texts are told"


async def test_what_two_said_while_they_were_apart_comes_in_its_place_and_is_marked_as_late(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, invite, "ada") as ada, enter(bob_node, invite, "bob") as bob:
            await ada.linked(1)
            await agree(ada, bob)
        async with enter(ada_node, "garden", "ada") as ada:
            await ada.pool.send("first, alone")
        async with enter(bob_node, "garden", "bob") as bob:
            await bob.pool.send("second, alone")
        async with enter(ada_node, "garden", "ada") as ada:
            await ada.pool.send("third, alone")
            async with enter(bob_node, "garden", "bob") as bob:
                await bob.hears("first, alone", "third, alone")
                await ada.hears("second, alone")
                assert await agree(ada, bob) == ["first, alone", "second, alone", "third, alone"]
                late = {event.text: event.is_late for event in bob.events if isinstance(event, poolnet.MessageReceived)}
                assert late == {"first, alone": True, "third, alone": False}


async def test_a_newcomer_has_the_last_talk_and_fetches_older_when_asked(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, invite, "ada") as ada:
            old = written_long_ago(ada, 300, days=30)
            await ada.pool.messages.append(old)
            await ada.pool.send("now")
            async with enter(bob_node, invite, "bob") as bob:
                await bob.hears("now")
                assert ada.pool.name_of(bob.node.device_id) == "bob"
                await bob.pool.synced(30)
                count = await bob.pool.messages.count()
                assert RECENT_MESSAGES <= count < RECENT_MESSAGES + 10
                oldest = (await bob.pool.history.latest(1000))[0]
                older = await bob.pool.messages.fetch_older(oldest.key, 50)
                expected = [message for message in old if message.key < oldest.key][-50:]
                assert older == expected
                while page := await bob.pool.messages.fetch_older(older[0].key, 100):
                    older = page
                assert older[0] == old[0]
                assert await history(bob) == await history(ada)


async def test_names_and_offers_reach_a_newcomer_however_old_they_are(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    plan = tmp_path / "plan.txt"
    plan.write_bytes(b"plan")
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, invite, "ada") as ada:
            offer = await ada.pool.files.offer(plan)
            for number in range(RECENT_MESSAGES + 50):
                await ada.pool.send(f"talk {number}")
            async with enter(bob_node, invite, "bob") as bob:
                await bob.sees(poolnet.FileOffered)
                assert [known.file_id for known in bob.pool.files.offers()] == [offer.file_id]
                assert bob.pool.name_of(ada_node.device_id) == "ada"


async def test_a_message_that_was_taken_back_is_gone_everywhere_and_does_not_come_again(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with (
        world.server() as server,
        world.node("ada") as ada_node,
        world.node("bob") as bob_node,
        world.node("cyd") as cyd_node,
    ):
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, invite, "ada") as ada, enter(bob_node, invite, "bob") as bob:
            async with enter(cyd_node, invite, "cyd") as cyd:
                msg_id = await bob.pool.send("a secret slip")
                await ada.hears("a secret slip")
                await cyd.hears("a secret slip")
            [slip] = await ada.pool.messages.get([msg_id])
            with pytest.raises(poolnet.UnknownMessage):
                await bob.pool.retract_message(poolnet.MsgId(bytes(32)))
            await bob.pool.retract_message(msg_id)
            told = await ada.sees(poolnet.MessageRetracted)
            assert told == poolnet.MessageRetracted(msg_id=msg_id, node=bob_node.device_id, name="bob")
            assert await agree(ada, bob) == []
            assert await ada.pool.messages.append([slip]) == []
            async with enter(cyd_node, "garden", "cyd") as cyd:  # has it still, and brings it along
                await cyd.sees(poolnet.MessageRetracted)
                assert await agree(ada, cyd) == []
                assert await cyd.pool.history.search("slip") == []
    assert b"secret slip" not in read_databases(tmp_path)


async def test_only_the_author_or_an_admin_takes_a_message_back(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with World(tmp_path).pool("ada", "bob", "cyd") as (ada, bob, cyd):
        by_ada, by_bob = await ada.pool.send("by ada"), await bob.pool.send("by bob")
        await cyd.hears("by ada", "by bob")
        with pytest.raises(poolnet.Refused, match="only its author or an admin"):
            await cyd.pool.retract_message(by_bob)
        await cyd.pool._flow.publish(RetractMessageBody(msg_id=by_ada))  # what a forged client would send
        await ada.pool.retract_message(by_bob)
        for member in (bob, cyd):
            await member.sees(poolnet.MessageRetracted)
        assert await agree(ada, bob, cyd) == ["by ada"]


async def test_an_announcement_counts_only_from_an_admin(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with World(tmp_path).pool("ada", "bob") as (ada, bob):
        with pytest.raises(poolnet.Refused, match="only an admin"):
            await bob.pool.announce("lunch is free")
        await bob.pool._flow.publish(AnnouncementBody(text="lunch is free"))
        await ada.pool.announce("lunch at noon")
        announcement = await bob.sees(poolnet.AnnouncementReceived)
        assert isinstance(announcement, poolnet.AnnouncementReceived)
        assert announcement.text == "lunch at noon"
        assert await agree(ada, bob) == ["lunch at noon"]
        assert not [e for e in ada.events if isinstance(e, poolnet.AnnouncementReceived) and e.text != "lunch at noon"]


async def test_who_is_called_by_name_is_told_and_others_are_not(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with World(tmp_path).pool("ada", "Bob B", "cyd") as (ada, bob, cyd):
        await cyd.hears()
        await agree(ada, bob, cyd)
        await ada.pool.send("@bob b: are you there?")
        await bob.sees(poolnet.Mentioned)
        await ada.pool.send("@all: lunch")
        told = await cyd.sees(poolnet.Mentioned)
        assert isinstance(told, poolnet.Mentioned)
        assert (told.text, told.to_all) == ("@all: lunch", True)
        assert not [event for event in ada.events if isinstance(event, poolnet.Mentioned)]


async def test_programs_talk_by_kinds_of_their_own(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with World(tmp_path).pool("ada", "bob") as (ada, bob):
        moves: list[bytes] = []
        heard = trio.Event()

        def handle(message: poolnet.AppMessageReceived) -> None:
            moves.append(message.data)
            if len(moves) == 2:
                heard.set()
            raise ValueError("a program's own mistake costs the pool nothing")

        bob.pool.handle_app("chess.move", handle)
        with pytest.raises(poolnet.LocalError, match="have a handler already"):
            bob.pool.handle_app("chess.move", handle)
        await ada.pool.send_app("chess.move", b"e4")
        await ada.pool.send_app("chess.chat", b"hm")
        await ada.pool.send_app("chess.move", b"x" * MAX_APP_SIZE)
        with trio.fail_after(60):
            await heard.wait()
        assert moves == [b"e4", b"x" * MAX_APP_SIZE]
        with pytest.raises(poolnet.TextTooLong):
            await ada.pool.send_app("chess.move", bytes(MAX_APP_SIZE + 1))
        with pytest.raises(poolnet.TextTooLong):
            await ada.pool.send_app("", b"")


async def test_a_kind_of_a_newer_version_is_stored_and_passed_on_and_shown_as_such(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with World(tmp_path).pool("ada", "bob") as (ada, bob):
        key = ada.node._own.key
        content = MessageContent(
            pool_id=ada.pool.pool_id,
            kind="poll",
            hlc=make_hlc(ada.pool.unix_ms),
            author_key=key.public_key,
            body=b"whatever",
        )
        signed = encode_content(content)
        poll = Message(msg_id=message_id(signed), content=content, signed=signed, signature=key.sign(signed))
        await ada.pool.messages.append([poll])
        ada.pool._flow._push(poll)
        event = await bob.sees(poolnet.UnknownMessageReceived)
        assert isinstance(event, poolnet.UnknownMessageReceived)
        assert event.kind == "poll"
        assert (await bob.pool.messages.get([poll.msg_id])) == [poll]


async def test_a_damaged_history_is_kept_aside_and_filled_again_from_the_neighbours(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, invite, "ada") as ada:
            async with enter(bob_node, invite, "bob") as bob:
                for number in range(20):
                    await ada.pool.send(f"talk {number}")
                await bob.hears("talk 19")
                talk = await agree(ada, bob)
            damage_database(tmp_path / "bob")
            async with enter(bob_node, "garden", "bob") as bob:
                reported = await bob.sees(poolnet.ErrorReported)
                assert isinstance(reported, poolnet.ErrorReported)
                assert reported.code == "store_damaged"
                await bob.hears("talk 0", "talk 19")
                assert await agree(ada, bob) == talk
            assert b"garbage" in read_databases(tmp_path / "bob")


async def test_who_only_makes_a_pool_or_an_invite_has_no_name_yet(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        await ada_node.create_pool("garden", server=server.address)
        invite = await ada_node.invite(ada_node.find_pool("garden"))
        async with enter(ada_node, "garden", "ada") as ada:
            await ada.pool.rename("countess")
            async with enter(bob_node, invite, "bob") as bob:
                await bob.sees(poolnet.NodeJoined)
                await agree(ada, bob)
                await trio.sleep(10)
                told = [event for event in bob.events if isinstance(event, poolnet.NodeJoined | poolnet.NodeRenamed)]
                assert told == [poolnet.NodeJoined(node=ada_node.device_id, name="countess")]
                profiles = await ada.pool.messages.of_kinds([ProfileBody.KIND])
                assert [decode_body_untrusted(p.content.kind, p.content.body) for p in profiles] == [
                    ProfileBody(name=name) for name in ("ada", "countess", "bob")
                ]


@pytest.mark.parametrize("damage", [damage_database, damage_messages])
async def test_a_history_found_damaged_when_a_pool_is_entered_costs_no_second_try(
    tmp_path: Path, jumping_clock: MockClock, damage: Callable[[Path], None]
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, "garden", "ada") as ada:
            await ada.pool.messages.append(written_long_ago(ada, 200, days=2))
            async with enter(bob_node, invite, "bob") as bob:
                await bob.pool.synced(30)
                await bob.pool.messages.fetch_older(None, 300)  # all, unlike a newcomer
                talk = await agree(ada, bob)
            damage(tmp_path / "bob")
            async with enter(bob_node, "garden", "bob") as bob:
                assert await agree(ada, bob) == talk
                told = [event for event in bob.events if isinstance(event, poolnet.ErrorReported)]
                assert [event.code for event in told] == ["store_damaged"]
                assert "'garden' is damaged and kept aside in " in told[0].message
            async with enter(bob_node, "garden", "bob") as bob:
                assert await agree(ada, bob) == talk
                assert not [event for event in bob.events if isinstance(event, poolnet.ErrorReported)]


async def test_a_device_whose_history_is_damaged_keeps_its_name(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, "garden", "ada") as ada:
            async with enter(bob_node, invite, "bob") as bob:
                await agree(ada, bob)
            damage_database(tmp_path / "bob")
            async with bob_node.join("garden") as again:
                assert again.display_name == "bob"
                await again.synced(30)
                assert ada.pool.name_of(bob_node.device_id) == "bob"


async def test_agreement_is_not_claimed_while_nobody_is_there_or_somebody_lacks_something(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, invite, "ada") as ada:
            with pytest.raises(poolnet.Unreachable, match="no other member was there"):
                await ada.pool.synced(1)
            async with enter(bob_node, invite, "bob") as bob:
                await agree(ada, bob)
                lacking = written_long_ago(ada, 1, days=1)
                refused: Sequence[Message] = []
                append = bob.pool.messages.append

                async def refuse(messages: Sequence[Message], *, durable: bool = False) -> list[Message]:
                    nonlocal refused
                    refused = [*refused, *messages]
                    await trio.lowlevel.checkpoint()
                    return []

                bob.pool.messages.append = refuse  # type: ignore[method-assign,assignment]
                await ada.pool.messages.append(lacking)
                with pytest.raises(poolnet.Unreachable, match="its neighbour did not agree in time"):
                    await ada.pool.synced(20)
                assert set(refused) == set(lacking)
                bob.pool.messages.append = append  # type: ignore[method-assign]
                assert "old 0" in await agree(ada, bob)
