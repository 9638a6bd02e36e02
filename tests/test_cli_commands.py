"""What the commands do with a pool, on a fake one without network and with a jumping clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from cli_fakes import ADA, BOB, GARDEN, ME, Desk, Recorder, member, offer_info, open_desk, text_event
from trio.testing import MockClock

from poolnet import (
    DownloadProgress,
    FileOffered,
    NodeJoined,
    NodeLeft,
    OutputExists,
    PoolNet,
    Refused,
    ServerLost,
    SourceUnavailable,
    TextTooLong,
    UnknownFile,
    UnknownMessage,
    Unreachable,
    encode_id,
    short_id,
)
from poolnet.wire.bodies import AnnouncementBody, OfferBody
from poolnet_cli.commands import fetching, finding, offers, pools, talk
from poolnet_cli.commands.join import join
from poolnet_cli.session import Enter, PoolLeft

# --- a session ----------------------------------------------------------------------------------------------------


async def test_a_pool_is_entered_once_and_left_when_the_last_command_is_done(jumping_clock: MockClock):
    async with open_desk() as desk:
        async with desk.session.use_pool(GARDEN) as first:
            async with desk.session.use_pool(GARDEN) as second:
                assert (first.is_shared, second.is_shared) == (False, True)
                assert first.net is second.net
            assert desk.node.is_in_pool
        assert not desk.node.is_in_pool
        assert desk.session.joined(GARDEN.pool_id) is None
        assert desk.node.joins == 1


async def test_commands_that_come_while_others_enter_or_leave_get_along(jumping_clock: MockClock):
    async with open_desk() as desk, trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(use_for_a_while, desk, n * 0.07)
    assert desk.node.joins >= 1
    assert not desk.node.is_in_pool


async def use_for_a_while(desk, after_s: float) -> None:
    await trio.sleep(after_s)
    async with desk.session.use_pool(GARDEN):
        assert desk.node.is_in_pool
        await trio.sleep(0.05)


async def test_a_pool_that_cannot_be_entered_can_be_tried_again(jumping_clock: MockClock):
    async with open_desk() as desk:
        desk.node.error = Refused("no", code="removed")
        with pytest.raises(Refused):
            async with desk.session.use_pool(GARDEN):
                pass
        desk.node.error = None
        async with desk.session.use_pool(GARDEN) as use:
            assert not use.is_shared


async def test_a_pool_that_was_entered_just_when_that_was_given_up_is_left_again(jumping_clock: MockClock):
    async def give_up_late(enter: Enter) -> PoolNet:
        await enter()
        raise Unreachable("too late")

    async with open_desk() as desk:
        with pytest.raises(Unreachable):
            async with desk.session.use_pool(GARDEN, patience=give_up_late):
                pass
        assert not desk.node.is_in_pool
        async with desk.session.use_pool(GARDEN) as use:
            assert not use.is_shared


async def test_leaving_for_good_ends_the_commands_in_that_pool_first(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk, trio.open_nursery() as nursery:
        nursery.start_soon(expect_pool_left, desk)
        await trio.sleep(1)
        await pools.leave(desk.call(recorder))
    assert desk.node.has_left_for_good
    assert recorder.records == [{"pool": encode_id(GARDEN.pool_id), "name": "garden"}]


async def expect_pool_left(desk) -> None:
    with pytest.raises(PoolLeft):
        async with desk.session.use_pool(GARDEN):
            await trio.sleep_forever()


# --- send, peers ---------------------------------------------------------------------------------------------------


async def test_send_waits_for_somebody_before_it_sends(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk, trio.open_nursery() as nursery:
        nursery.start_soon(talk.send, desk.call(recorder, text="hi", timeout_s=30))
        await trio.sleep(10)
        assert desk.pool.sent == []
        desk.pool.is_linked.set()
    assert desk.pool.sent == ["hi"]
    assert recorder.records == [{"id": encode_id(bytes([101]) * 32)}]


async def test_send_gives_up_in_time_and_has_sent_nothing(jumping_clock: MockClock):
    async with open_desk() as desk:
        began_at = trio.current_time()
        with pytest.raises(Unreachable):
            await talk.send(desk.call(Recorder(), text="hi", timeout_s=30))
        assert trio.current_time() - began_at < 31
        assert desk.pool.sent == []


async def test_what_nobody_confirms_is_told_with_the_time_that_was_given(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk, trio.open_nursery() as nursery:
        desk.pool.may_deliver = trio.Event()
        desk.pool.files.known.append(offer_info(9, "big", ME))

        async def link_after_a_while() -> None:
            await trio.sleep(2)
            desk.pool.is_linked.set()

        nursery.start_soon(link_after_a_while)
        with pytest.raises(Unreachable, match="within 4 s"):
            await talk.send(desk.call(Recorder(), text="hi", timeout_s=4))
        desk.pool.is_linked = trio.Event()
        nursery.start_soon(link_after_a_while)
        began_at = trio.current_time()
        await offers.retract(desk.call(recorder, file="big", message=None, timeout_s=5))
        assert trio.current_time() - began_at < 6
    assert "nobody has confirmed it yet, others will hear of it" in recorder.notes[0]


@pytest.mark.parametrize(("is_attached", "is_told_before"), [(False, False), (True, False), (False, True)])
async def test_a_server_that_does_not_answer_is_told_soon_unless_that_is_known(
    jumping_clock: MockClock, is_attached: bool, is_told_before: bool
):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.is_attached = is_attached
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, desk.call(recorder, name=None, cwd="/", rows=20))
            await trio.sleep(1)
            if is_told_before:
                desk.pool.events.publish(ServerLost(address="h:1", reason="gone"))
            await trio.sleep(2.5)
            nursery.cancel_scope.cancel()
    reasons = [record["reason"] for record in recorder.records if record["event"] == "server_lost"]
    expected = "gone" if is_told_before else "none has answered yet at 192.0.2.7:7665"
    assert reasons == ([] if is_attached else [expected])


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(2.2 * 1024**2, [2.2, 1.1, 0.55, 0.275, 0, 0]), (100 * 1024, [0.098, 0.098, 0.098, 0.098, 0, 0]), (0.0, [0, 0])],
)
def test_the_rate_of_what_gets_nothing_sinks_within_seconds(rate: float, shown: list[float]):
    seconds = (0.5, 1.5, 2.5, 3.5, 4.5, 60)
    rates = [fetching._rate_after_silence(rate, silent_s) / 1024**2 for silent_s in seconds[: len(shown)]]
    assert rates == pytest.approx(shown, abs=0.001)


async def test_send_where_the_pool_is_joined_waits_for_nobody(jumping_clock: MockClock):
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        await talk.send(desk.call(Recorder(), text="hi", timeout_s=30))
        assert desk.pool.sent == ["hi"]


async def test_a_text_that_is_too_long_or_empty_is_refused_before_anything_is_entered(jumping_clock: MockClock):
    async with open_desk() as desk:
        for text, problem in (("x" * 1001, "1001 characters"), ("", "empty")):
            with pytest.raises(TextTooLong, match=problem):
                await talk.send(desk.call(Recorder(), text=text, timeout_s=30))
        assert desk.node.joins == 0


async def test_peers_are_the_others_who_are_here(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.is_linked.set()
        desk.pool.people += [member(ADA, "ada"), member(BOB, "bob", online=False, linked=False)]
        await talk.peers(desk.call(recorder, all=False, timeout_s=5))
        assert [(peer["name"], peer["linked"]) for peer in recorder.records] == [("ada", True)]
        await talk.peers(desk.call(recorder, all=True, timeout_s=5))
        assert [peer["name"] for peer in recorder.records[1:]] == ["ada", "bob"]


async def test_an_announcement_is_for_admins(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        with pytest.raises(Refused, match="only an admin of garden"):
            await talk.announce(desk.call(recorder, text="hear"))
        assert desk.node.joins == 0
        desk.node.role = "admin"
        desk.pool.is_linked.set()
        await talk.announce(desk.call(recorder, text="hear"))
        assert desk.pool.announced == ["hear"]
    assert recorder.records == [{"id": encode_id(bytes([101]) * 32)}]


async def test_wait_returns_when_all_agree(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk, trio.open_nursery() as nursery:
        nursery.start_soon(talk.wait, desk.call(recorder, timeout_s=30))
        await trio.sleep(5)
        desk.pool.people.append(member(ADA, "ada"))
        desk.pool.is_linked.set()
        await trio.sleep(5)
        assert recorder.records == []
        desk.pool.is_synced.set()
    assert (recorder.records[0]["event"], recorder.records[0]["neighbours"]) == ("synced", 1)
    assert "waiting until this device and its neighbours agree" in recorder.notes


@pytest.mark.parametrize("is_linked", [True, False])
async def test_wait_gives_up_in_time_and_tells_what_is_missing(jumping_clock: MockClock, is_linked: bool):
    async with open_desk() as desk:
        if is_linked:
            desk.pool.is_linked.set()
        began_at = trio.current_time()
        with pytest.raises(Unreachable, match="did not agree" if is_linked else "nobody was there"):
            await talk.wait(desk.call(Recorder(), timeout_s=30))
        assert trio.current_time() - began_at < 31


# --- files --------------------------------------------------------------------------------------------------------


async def test_offer_checks_all_paths_before_it_enters(jumping_clock: MockClock, tmp_path: Path):
    (tmp_path / "good").write_text("x")
    for bad in (tmp_path / "missing", Path("/dev/null")):
        async with open_desk() as desk:
            with pytest.raises(SourceUnavailable, match=str(bad)):
                await offers.offer(desk.call(Recorder(), paths=[str(tmp_path / "good"), str(bad)]))
            assert desk.node.joins == 0


async def test_offer_stays_and_seeds_unless_the_pool_is_joined(jumping_clock: MockClock, tmp_path: Path):
    path = tmp_path / "good"
    path.write_text("x")
    recorder = Recorder()
    async with open_desk() as desk:
        with trio.move_on_after(1000) as scope:
            await offers.offer(desk.call(recorder, paths=[str(path)]))
        assert scope.cancelled_caught
        async with desk.session.use_pool(GARDEN):
            await offers.offer(desk.call(recorder, paths=[str(path)]))
    assert [record["name"] for record in recorder.records] == ["good", "good"]
    assert set(recorder.records[0]) == {"file_id", "name", "size", "kind", "file_count"}
    assert recorder.progressed[0]["name"] == "hashing good"


async def test_get_waits_for_the_offer_and_reports_where_the_file_is(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    out = str(tmp_path / "out")
    async with open_desk() as desk, trio.open_nursery() as nursery:
        nursery.start_soon(fetching.get, desk.call(recorder, files=["big"], out=out, timeout_s=30))
        await trio.sleep(10)
        desk.pool.is_linked.set()
        await trio.sleep(1)
        item = offer_info(9, "big")
        desk.pool.files.known.append(item)
        await trio.sleep(1)
        desk.pool.files.may_complete.set()
    assert recorder.records == [{"event": "complete", "file_id": encode_id(item.file_id), "path": out}]


async def test_get_of_an_unknown_name_says_so_soon_after_somebody_is_there(jumping_clock: MockClock, tmp_path: Path):
    async with open_desk() as desk:
        desk.pool.is_linked.set()
        began_at = trio.current_time()
        with pytest.raises(UnknownFile):
            await fetching.get(desk.call(Recorder(), files=["nope"], out=str(tmp_path / "x"), timeout_s=300))
        assert trio.current_time() - began_at < finding.CATCH_UP_S + 1


async def test_get_gives_up_when_nothing_comes_in_time(jumping_clock: MockClock, tmp_path: Path):
    async with open_desk() as desk:
        desk.pool.files.known.append(offer_info(9, "big"))
        with pytest.raises(Unreachable, match="big"):
            await fetching.get(desk.call(Recorder(), files=["big"], out=str(tmp_path / "x"), timeout_s=30))
        assert not desk.node.is_in_pool


async def test_get_is_patient_once_something_has_come(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    async with open_desk() as desk, trio.open_nursery() as nursery:
        item = offer_info(9, "big")
        desk.pool.files.known.append(item)
        nursery.start_soon(fetching.get, desk.call(recorder, files=["big"], out=str(tmp_path / "x"), timeout_s=30))
        for done, rate in ((0, 0.0), (10, 2.0)):
            await trio.sleep(10)
            desk.pool.events.publish(
                DownloadProgress(file_id=item.file_id, done_bytes=done, size_bytes=100, rate_bytes_per_s=rate)
            )
        await trio.sleep(3600)
        desk.pool.files.may_complete.set()
    shown = [(progress["bytes"], progress["rate"]) for progress in recorder.progressed]
    assert shown == [(0, 0), (10, 2), (10, 0)]  # the last one says that nothing comes any more
    assert recorder.records[-1]["event"] == "complete"


async def test_get_does_not_enter_for_a_path_that_is_taken(jumping_clock: MockClock, tmp_path: Path):
    (tmp_path / "taken").write_text("precious")
    async with open_desk() as desk:
        with pytest.raises(OutputExists, match="is there already"):
            await fetching.get(desk.call(Recorder(), files=["big"], out=str(tmp_path / "taken"), timeout_s=30))
        assert desk.node.joins == 0


async def test_retract_works_also_when_nobody_is_there(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        item = offer_info(9, "big", ME)
        desk.pool.files.known.append(item)
        await offers.retract(desk.call(recorder, file="big", message=None, timeout_s=5))
        assert desk.pool.files.retracted == [item.file_id]
    assert recorder.records == [{"event": "retracted", "file_id": encode_id(item.file_id)}]
    assert "nobody is there" in recorder.notes[0]


async def test_to_retract_what_somebody_else_offers_is_told_as_what_it_is(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.is_linked.set()
        desk.pool.files.known += [offer_info(9, "theirs", ADA), offer_info(10, "mine", ME)]
        for name in ("theirs", "mine"):
            await offers.retract(desk.call(recorder, file=name, message=None))
    assert "no longer gives theirs" in recorder.notes[0]
    assert recorder.notes[1].startswith("mine is withdrawn")


async def test_a_message_is_taken_back_by_the_beginning_of_its_id(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        message = await desk.pool.store("oops", ms=1000, by=ME)
        text_id = encode_id(message.msg_id)
        await offers.retract(desk.call(recorder, file=None, message=text_id[:6], timeout_s=5))
        assert desk.pool.retracted == [message.msg_id]
        with pytest.raises(UnknownMessage):
            await offers.retract(desk.call(recorder, file=None, message="zzzzzz", timeout_s=5))
    assert recorder.records == [{"event": "message_retracted", "id": text_id, "node": encode_id(ME), "name": "me"}]
    assert "nobody is there now" in recorder.notes[0]


# --- the feed -----------------------------------------------------------------------------------------------------


def joined_at(node, name: str) -> NodeJoined:
    return NodeJoined(node=node, name=name)


async def test_the_feed_begins_with_joined_and_ends_with_quit(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        await join(desk.call(recorder, ["hello", "//slash", "", "/quit", "never"], name=None, cwd="/"))
        assert desk.pool.sent == ["hello", "/slash"]
        assert not desk.node.is_in_pool
    assert recorder.records[0] == {
        "event": "joined",
        "pool": encode_id(GARDEN.pool_id),
        "node": encode_id(ME),
        "name": "me",
        "pool_name": "garden",
    }


async def test_the_end_of_input_does_not_end_the_feed(jumping_clock: MockClock):
    async with open_desk() as desk:
        with trio.move_on_after(1000) as scope:
            await join(desk.call(Recorder(), [], name=None, cwd="/"))
        assert scope.cancelled_caught


async def test_what_came_before_the_feed_listened_is_told_once_and_what_was_known_before_not_at_all(
    jumping_clock: MockClock,
):
    recorder = Recorder()
    async with open_desk() as desk, trio.open_nursery() as nursery:
        desk.pool.people.append(member(ADA, "ada"))
        desk.pool.files.known.append(offer_info(9, "big"))
        await desk.pool.store("old", ms=1000)
        nursery.start_soon(join, desk.call(recorder, [], name=None, cwd="/"))
        await trio.sleep(0.05)  # entering takes 0.1 s
        new = await desk.pool.store("new", ms=2000)
        await trio.sleep(10)
        desk.pool.events.publish(joined_at(ADA, "ada"))
        desk.pool.events.publish(text_event(new, "new"))
        offered = offer_info(9, "big")
        desk.pool.events.publish(
            FileOffered(file_id=offered.file_id, file_name="big", size_bytes=100, node=ADA, name="ada")
        )
        desk.pool.events.publish(NodeLeft(node=BOB, name="bob"))  # who was never announced
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [record["event"] for record in recorder.records] == ["joined", "node_joined", "offer", "message"]
    assert recorder.events("message")[0]["text"] == "new"


async def test_a_node_without_a_name_is_announced_after_a_while_but_not_twice(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk, trio.open_nursery() as nursery:
        desk.pool.people += [member(ADA, short_id(ADA)), member(BOB, short_id(BOB))]
        nursery.start_soon(join, desk.call(recorder, [], name=None, cwd="/"))
        await trio.sleep(1)
        desk.pool.events.publish(joined_at(ADA, "ada"))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [record["name"] for record in recorder.events("node_joined")] == ["ada", short_id(BOB)]


async def test_a_typed_mistake_is_an_event_and_the_feed_goes_on(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    lines = ["/nonsense", "/offer missing", "/get nope", "/quit"]
    async with open_desk() as desk:
        await join(desk.call(recorder, lines, name=None, cwd=str(tmp_path)))
    assert [record["code"] for record in recorder.events("error")] == ["usage", "source_unavailable", "unknown_file"]
    assert str(tmp_path / "missing") in recorder.events("error")[1]["message"]


async def test_typed_paths_are_seen_from_where_they_are_typed(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    (tmp_path / "mine.txt").write_text("x")
    async with open_desk() as desk:
        desk.pool.files.known.append(offer_info(9, "big"))
        desk.pool.files.may_complete.set()
        await join(
            desk.call(
                recorder,
                ["/offer mine.txt", "/get big", "/get big sub", "/files", "/quit"],
                name=None,
                cwd=str(tmp_path),
            )
        )
        assert [out for _, out in desk.pool.files.downloaded] == [tmp_path, tmp_path / "sub"]
    assert [item["name"] for item in recorder.events("files")[0]["files"]] == ["big", "mine.txt"]


async def test_a_second_feed_in_the_same_home_shares_the_pool(jumping_clock: MockClock):
    first, second = Recorder(), Recorder()
    async with open_desk() as desk, trio.open_nursery() as nursery:
        nursery.start_soon(join, desk.call(first, [], name=None, cwd="/"))
        await trio.sleep(1)
        await join(desk.call(second, ["/quit"], name="new name", cwd="/"))
        assert desk.node.is_in_pool
        assert second.records[0]["name"] == "new name"
        nursery.cancel_scope.cancel()
    assert desk.node.joins == 1


# --- the feed for people ------------------------------------------------------------------------------------------


class People:
    """A feed on a screen of 20 rows, at a desk."""

    def __init__(self, desk: Desk, nursery: trio.Nursery) -> None:
        self.recorder = Recorder()
        self._desk = desk
        self._nursery = nursery

    async def join(self, *lines: str) -> None:
        self._nursery.start_soon(join, self._desk.call(self.recorder, lines, name=None, cwd="/", rows=20))
        await trio.sleep(1 + len(lines))

    def shown(self) -> list[str]:
        """Return what is on the screen, in short."""
        return [line for record in self.recorder.records for line in self._short(record)]

    def _short(self, record: dict[str, Any]) -> list[str]:
        inner = [line for entry in record.get("entries", ()) for line in self._short(entry)]
        mark = [] if record["event"] in ("message", "recent") else [f"[{record['event']}]"]
        return [*mark, *([record["text"] + "*" * record.get("late", False)] if "text" in record else []), *inner]


@asynccontextmanager
async def open_people() -> AsyncIterator[tuple[Desk, People]]:
    async with open_desk() as desk, trio.open_nursery() as nursery:
        yield desk, People(desk, nursery)
        nursery.cancel_scope.cancel()


async def test_the_feed_for_people_begins_with_the_newest_messages(jumping_clock: MockClock):
    async with open_people() as (desk, people):
        desk.pool.people.append(member(ADA, "ada"))
        await desk.pool.store(AnnouncementBody(text="hear"), ms=500)
        for n in range(25):
            await desk.pool.store(f"text {n}", ms=1000 + n)
        await people.join()
        texts = [f"text {n}" for n in range(5, 25)]
        assert people.shown() == ["[joined]", "[pinned]", "hear", *texts, "[node_joined]"]


async def test_an_announcement_that_is_on_the_screen_is_not_shown_twice(jumping_clock: MockClock):
    async with open_people() as (desk, people):
        await desk.pool.store(AnnouncementBody(text="hear"), ms=500)
        await people.join()
        assert people.shown() == ["[joined]", "[announcement]", "hear"]


async def test_late_messages_are_shown_in_their_place_a_moment_later(jumping_clock: MockClock):
    async with open_people() as (desk, people):
        await desk.pool.store("old", ms=1000)
        await people.join()
        desk.pool.unix_ms = 20_000
        await desk.pool.say("new", ms=20_000)
        await desk.pool.say("late", ms=10_000)
        await trio.sleep(0.2)
        assert people.shown() == ["[joined]", "old", "new"]
        await trio.sleep(0.2)
        assert people.shown()[3:] == ["[late]", "late*", "new"]
        assert people.recorder.events("late")[0]["further_up"] == 0


async def test_a_retraction_takes_the_text_away_and_says_so(jumping_clock: MockClock):
    async with open_people() as (desk, people):
        await people.join()
        oops = await desk.pool.say("oops", ms=desk.pool.unix_ms)
        await desk.pool.say("well", ms=desk.pool.unix_ms + 1)
        await trio.sleep(1)
        await desk.pool.take_back(oops)
        await desk.pool.say("late", ms=desk.pool.unix_ms - 60_000)
        await trio.sleep(1)
        assert people.shown() == ["[joined]", "oops", "well", "[message_retracted]", "[late]", "late*", "well"]
        assert people.recorder.events("message_retracted")[0]["of"]["name"] == "ada"


async def test_when_the_announcement_is_taken_back_the_one_before_counts_again(jumping_clock: MockClock):
    async with open_people() as (desk, people):
        await desk.pool.store(AnnouncementBody(text="first"), ms=1000)
        second = await desk.pool.store(AnnouncementBody(text="second"), ms=2000)
        await people.join()
        await desk.pool.take_back(second)
        await trio.sleep(1)
        assert people.shown()[-3:] == ["[message_retracted]", "[pinned]", "first"]


async def test_the_talk_and_its_past_are_at_hand_while_typing(jumping_clock: MockClock):
    async with open_people() as (desk, people):
        ids = [(await desk.pool.store(f"text {n}", ms=1000 + n)).msg_id for n in range(45)]
        first = encode_id(ids[0])[:8]
        await people.join("/older", "/older", "/older", "/search 7", "/sessions", "/announce hear", f"/retract {first}")
        pages = [[entry["text"] for entry in page["entries"]] for page in people.recorder.events("older")]
        assert pages == [[f"text {n}" for n in range(5, 25)], [f"text {n}" for n in range(5)], []]
        assert [page["is_start"] for page in people.recorder.events("older")] == [False, True, True]
        assert [entry["text"] for entry in people.recorder.events("found")[0]["entries"]] == ["text 7"]
        assert people.recorder.events("sessions")[0]["sessions"][0]["messages"] == 45
        assert (desk.pool.announced, desk.pool.retracted) == (["hear"], [ids[0]])


async def test_files_that_are_on_offer_are_shown_once(jumping_clock: MockClock):
    async with open_people() as (desk, people):
        shown, above = offer_info(9, "shown", ADA), offer_info(8, "above", BOB)
        desk.pool.files.known += [above, shown]
        await desk.pool.store(OfferBody(file_id=shown.file_id, name="shown", size=100), ms=1000)
        await people.join()
        (offered,) = people.recorder.events("recent")[0]["entries"]
        assert (offered["file_id"], offered["size"]) == (encode_id(shown.file_id), 100)
        assert [offer["name"] for offer in people.recorder.events("offers")[0]["offers"]] == ["above"]
