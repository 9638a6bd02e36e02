"""Whole nodes whose histories cannot be written or are lost, or that leave while something hangs."""

from pathlib import Path

import pytest
import trio
from test_pool import Member, World, enter
from test_pool_agreement import agree, history, written_long_ago
from trio.testing import MockClock

import poolnet
from poolnet.ids import MsgId
from poolnet.limits import RECENT_MESSAGES
from poolnet.storage import sqlite_worker
from poolnet.wire.bodies import OfferBody

pytestmark = pytest.mark.timeout(240)


def fail_writes(member: Member, *, fail: bool) -> None:
    """Let a member's history refuse to be written to, or not any more."""
    worker = member.pool.messages._worker
    worker._connection.execute(f"PRAGMA query_only = {'ON' if fail else 'OFF'}")


async def test_a_history_that_cannot_be_written_for_a_while_delays_its_node_and_loses_nothing(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with World(tmp_path).pool("ada", "bob") as (ada, bob):
        fail_writes(bob, fail=True)
        slip = await ada.pool.send("slip")
        await bob.hears("slip")  # else nobody need be told that it is taken back
        await ada.pool.send("first")
        await ada.pool.retract_message(slip)
        await bob.hears("first")
        reported = await bob.sees(poolnet.ErrorReported)
        assert isinstance(reported, poolnet.ErrorReported)
        assert reported.code == "store"
        with pytest.raises(poolnet.StoreError):
            await bob.pool.send("cannot be kept")
        await trio.sleep(100)
        fail_writes(bob, fail=False)
        await bob.sees(poolnet.MessageRetracted)
        await bob.hears("first")
        await bob.pool.send("second")
        assert await agree(ada, bob) == ["first", "second"]


async def test_a_message_that_a_failing_disk_may_lose_is_sent_once_and_no_other_after_it(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path).pool("ada", "bob") as (ada, bob):
        await agree(ada, bob)

        def fail(path: Path) -> None:
            raise OSError(5, "broken", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(sqlite_worker, "sync_file", fail)
            with pytest.raises(poolnet.StoreError):
                await ada.pool.send("first")
        for _ in range(3):
            with pytest.raises(poolnet.StoreError, match="start again"):
                await ada.pool.send("second")
        await bob.hears("first")
        await bob.pool.send("third")
        assert await agree(ada, bob) == ["first", "third"]


async def test_a_link_that_waits_for_the_inbox_ends_when_its_pool_is_left(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        begun, ended = list[MsgId](), list[MsgId]()
        async with enter(ada_node, invite, "ada") as ada, enter(bob_node, invite, "bob") as bob:
            for member in (ada, bob):
                await member.linked(1)
            await agree(ada, bob)
            for member in (ada, bob):

                async def wait(msg_id: MsgId) -> None:
                    begun.append(msg_id)
                    try:
                        await trio.sleep_forever()
                    finally:
                        ended.append(msg_id)

                monkeypatch.setattr(member.pool._flow._inbox, "put", wait)
            await ada.pool.send("to bob")
            await bob.pool.send("to ada")
            await trio.sleep(5)
            assert len(begun) == 2
        assert len(ended) == 2


async def test_an_offer_that_was_taken_back_as_a_message_stands_on_nobody_s_device(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    plan = tmp_path / "plan.txt"
    plan.write_bytes(b"plan")
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, invite, "ada") as ada:
            async with enter(bob_node, invite, "bob") as bob:
                await bob.pool.files.offer(plan)
                await ada.sees(poolnet.FileOffered)
                [offer] = await ada.pool.messages.of_kinds([OfferBody.KIND])
                await ada.pool.retract_message(offer.msg_id)
                await ada.sees(poolnet.OfferRetracted)
                await bob.sees(poolnet.OfferRetracted)
                assert ada.pool.files.offers() == []
            async with enter(bob_node, "garden", "bob") as bob:
                await agree(ada, bob)


async def test_a_history_found_damaged_while_it_is_used_is_filled_again_the_next_time(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, invite, "ada") as ada:
            await ada.pool.messages.append(written_long_ago(ada, RECENT_MESSAGES + 50, days=2))
            await ada.pool.send("now")
            async with enter(bob_node, invite, "bob") as bob:
                await bob.hears("now")
                while await bob.pool.messages.fetch_older((await bob.pool.messages.latest(1000))[0].key, 100):
                    pass
                assert await agree(ada, bob) == await history(ada)
                bob.pool.messages._worker._is_damaged = True
            async with enter(bob_node, "garden", "bob") as bob:
                assert await agree(ada, bob) == await history(ada)
