"""What applications hear of messages: late ones are marked, retracted ones are not told any more."""

from typing import Any

import pytest
import trio
from pool_builder import Pool, key_of
from trio.testing import MockClock

from poolnet.clock import Hlc, make_hlc
from poolnet.events import AppMessageReceived, MessageReceived, MessageRetracted, PoolEvent
from poolnet.identity.authorship import sign_message
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.pool.message_effects import MessageEffects
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.wire.bodies import (
    AppBody,
    Body,
    FolderBody,
    MediaBody,
    OfferBody,
    ProfileBody,
    RetractMessageBody,
    RetractOfferBody,
    StreamBody,
    TextBody,
)
from poolnet.wire.message import Message

pytestmark = pytest.mark.timeout(60)


class Heard:
    """The effects of messages in a pool of founder, ann and bob, on the device of bob."""

    def __init__(self, files: Any = None) -> None:
        self.pool = Pool()
        self.pool.bring("ann")
        self.pool.bring("bob")
        self.events: list[PoolEvent] = []
        self.effects = MessageEffects(
            self_id=key_of("bob").device_id,
            membership=self.pool.membership,
            files=files,
            publish=self.events.append,
        )

    def say(self, unix_ms: int, body: Body | str, *, by: str = "ann") -> Message:
        """Return a message after it took effect."""
        message = self.written(unix_ms, TextBody(text=body) if isinstance(body, str) else body, by=by)
        self.effects.apply(message)
        return message

    def written(self, unix_ms: int, body: Body, *, by: str = "ann") -> Message:
        """Return a message that nobody has heard of yet."""
        return sign_message(key_of(by), pool_id=self.pool.pool_id, hlc=make_hlc(unix_ms), body=body)

    def texts(self) -> list[tuple[str, bool]]:
        """Return the texts heard, and whether they were late."""
        return [(event.text, event.is_late) for event in self.events if isinstance(event, MessageReceived)]


async def settle() -> None:
    """Let names be known for long enough."""
    await trio.sleep(10)


async def test_only_what_comes_after_something_that_follows_it_is_late(autojump_clock: MockClock) -> None:
    heard = Heard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heard.effects.run_timer)
        heard.effects.begin_after(heard.say(100, ProfileBody(name="Ann")).key)
        await settle()
        heard.say(50, "before the last session ended")
        heard.say(200, "in order")
        heard.say(150, "late")
        heard.say(300, ProfileBody(name="Anna"))
        heard.say(250, "not late: a name is not told in any place")
        heard.say(220, "own", by="bob")
        await settle()
        assert heard.texts() == [
            ("before the last session ended", True),
            ("in order", False),
            ("late", True),
            ("not late: a name is not told in any place", False),
            ("own", False),
        ]
        nursery.cancel_scope.cancel()


async def test_what_is_taken_back_while_its_author_has_no_name_yet_is_never_told(autojump_clock: MockClock) -> None:
    heard = Heard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heard.effects.run_timer)
        slip = heard.say(100, "slip")
        heard.say(101, "other")
        tombstone = heard.say(102, RetractMessageBody(msg_id=slip.msg_id))
        heard.effects.retracted(slip.msg_id, tombstone)
        await settle()
        assert heard.texts() == [("other", False)]
        assert [event.msg_id for event in heard.events if isinstance(event, MessageRetracted)] == [slip.msg_id]
        nursery.cancel_scope.cancel()


class LearntFiles:
    """Takes note of what a file manager would be told."""

    def __init__(self) -> None:
        self.offered: list[tuple[DeviceId, object, FileId]] = []
        self.retracted: list[tuple[DeviceId, FileId]] = []

    def learned_offer(self, node: DeviceId, body: object, hlc: Hlc, *, file_id: FileId, msg_id: MsgId) -> None:
        self.offered.append((node, body, file_id))

    def learned_retraction(self, node: DeviceId, file_id: FileId, hlc: Hlc) -> None:
        self.retracted.append((node, file_id))


FILE, LIST, NONCE = FileId(b"f" * 32), FileId(b"l" * 32), b"n" * 16


@pytest.mark.parametrize(
    "body",
    [
        OfferBody(file_id=FILE, name="a", size=1),
        FolderBody(file_id=FILE, list_id=LIST, name="a", size=1, list_size=1, file_count=1),
        MediaBody(file_id=FILE, name="a", size=1, width=1, height=1, preview=b""),
        StreamBody(nonce=NONCE, name="a"),
    ],
    ids=lambda body: body.KIND,
)
async def test_offers_of_every_kind_reach_the_files_and_go_with_their_message(body: Body) -> None:
    files = LearntFiles()
    heard = Heard(files)
    message = heard.say(100, body)
    ann = key_of("ann").device_id
    file_id = stream_id_of(ann, heard.pool.pool_id, NONCE) if isinstance(body, StreamBody) else FILE
    assert files.offered == [(ann, body, file_id)]
    heard.say(101, RetractOfferBody(file_id=file_id))
    heard.effects.retracted(message.msg_id, heard.say(102, RetractMessageBody(msg_id=message.msg_id)))
    assert files.retracted == [(ann, file_id), (ann, file_id)]
    assert [type(event) for event in heard.events] == [MessageRetracted]


async def test_of_earlier_sessions_only_what_still_stands_is_told() -> None:
    files, heard = LearntFiles(), Heard()
    gone, again, kept = (FileId(bytes([n]) * 32) for n in range(3))
    said = [
        OfferBody(file_id=gone, name="gone", size=1),
        OfferBody(file_id=again, name="again", size=1),
        RetractOfferBody(file_id=gone),
        RetractOfferBody(file_id=again),
        OfferBody(file_id=kept, name="kept", size=1, stream_id=b"s" * 32),
        OfferBody(file_id=kept, name="kept, as a file", size=1),
        OfferBody(file_id=again, name="again", size=1),
        ProfileBody(name="Ann"),
        ProfileBody(name="Anna"),
    ]
    history = [heard.written(200 + n, body) for n, body in enumerate(said)]
    history += [heard.written(300, ProfileBody(name=name), by="bob") for name in ("Robert", "Bob")]
    later = Heard(files)
    later.effects.restore(history)
    assert [(body.name, file_id) for _, body, file_id in files.offered if isinstance(body, OfferBody)] == [
        ("kept", kept),
        ("kept, as a file", kept),
        ("again", again),
    ]
    assert {file_id for _, file_id in files.retracted} == {gone, again}
    assert later.effects.name_of(key_of("ann").device_id) == "Anna"
    assert later.events == []


async def test_a_handler_that_fails_costs_the_others_nothing(autojump_clock: MockClock) -> None:
    heard = Heard()
    calls: list[bytes] = []

    def handle(event: AppMessageReceived) -> None:
        calls.append(event.data)
        raise ValueError("a program's own")

    heard.effects.handle_app("chess", handle)
    for data in (b"e4", b"e5"):
        heard.say(100, AppBody(name="chess", data=data), by="bob")
    assert calls == [b"e4", b"e5"]
    assert len(heard.events) == 2


async def test_who_makes_more_offers_than_there_is_room_for_is_forgotten_before_others(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr("poolnet.pool.message_effects.MAX_OFFERS", 10)
    withdrawn: list[DeviceId] = []

    class Files:
        def learned_offer(self, *_offer: object, **_more: object) -> None:
            pass

        def learned_retraction(self, node: DeviceId, _file_id: FileId, _hlc: Hlc) -> None:
            withdrawn.append(node)

    heard = Heard(Files())
    honest = heard.say(1000, OfferBody(file_id=FileId(b"h" * 32), name="h", size=1), by="ann")
    flood = [
        heard.say(2000 + number, OfferBody(file_id=FileId(number.to_bytes(32, "big")), name="f", size=1), by="bob")
        for number in range(50)
    ]
    for message in (*flood, honest):
        heard.effects.retracted(message.msg_id, heard.written(9000, RetractMessageBody(msg_id=message.msg_id)))
    assert withdrawn == [key_of("bob").device_id] * 9 + [key_of("ann").device_id]
