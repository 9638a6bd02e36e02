"""Members with valid credentials that break the rules on purpose, over real links: whole nodes, a network in memory.

What decoders refuse is in test_fuzz_*.py, what a link bounds in test_hostile_links.py, what offers and chunks do in
test_files_hostile_offers.py and test_hostile_chunks.py. Here a member says what only a member can.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio
from test_pool import Member, World, enter
from test_wrong_clocks import world_of
from trio.testing import MockClock

import poolnet
from poolnet.clock import Hlc
from poolnet.errors import LinkClosed
from poolnet.identity.authorship import sign_message
from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import Role, Statement, encode_statement, make_invite
from poolnet.ids import MsgId
from poolnet.limits import DEFERRED_COMPARE_S, MAX_APP_SIZE, MAX_BODY_SIZE, MAX_TEXT_CHARS, MIN_SHUN_S
from poolnet.net.link import Link
from poolnet.protocol import quota
from poolnet.protocol.agreement import Agreement
from poolnet.wire.bodies import TextBody, encode_body
from poolnet.wire.cbor import encode_cbor
from poolnet.wire.framing import Frame
from poolnet.wire.message import Message, MessageContent, encode_content, encode_message, message_id
from poolnet.wire.pool_frames import Gossip, Messages, Statements

pytestmark = pytest.mark.timeout(240)


def key_of(member: Member) -> DeviceKey:
    return member.node._own.key


def link_between(member: Member, other: Member) -> Link:
    return member.pool._links.links[other.node.device_id]


def now_of(member: Member) -> Hlc:
    return member.pool._time.clock.tick(member.pool._time.unix_ms())


def said_by(member: Member, text: str, *, hlc: Hlc | None = None) -> Message:
    """Return a message that its author has signed and not sent."""
    stamp = now_of(member) if hlc is None else hlc
    return sign_message(key_of(member), pool_id=member.pool.pool_id, hlc=stamp, body=TextBody(text=text))


def made_up(member: Member, *, author: DeviceKey, signer: DeviceKey, body: bytes, kind: str = "text") -> Message:
    """Return a message that an honest program would not make."""
    content = MessageContent(
        pool_id=member.pool.pool_id, kind=kind, hlc=now_of(member), author_key=author.public_key, body=body
    )
    signed = encode_content(content)
    return Message(msg_id=message_id(signed), content=content, signed=signed, signature=signer.sign(signed))


def push(sender: Member, receiver: Member, *messages: Message) -> None:
    """Send messages as gossip does, whatever the sender's own machines think of them."""
    for message in messages:
        link_between(sender, receiver).post_frame(Gossip(hops=1, message=encode_message(message)))


def invite_by(member: Member, number: int) -> Statement:
    """Return an invite that a member may make, with a key of its own."""
    return make_invite(
        key_of(member),
        pool_id=member.pool.pool_id,
        invite_key=DeviceKey.from_seed(number.to_bytes(32, "big")).public_key,
        role=Role.MEMBER,
        expires_unix_ms=2**41,
        uses=None,
        hlc=now_of(member),
    )


async def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - of things that tell nobody
            await trio.sleep(0.05)


async def until_linked(one: Member, other: Member, within_s: float = 60.0) -> None:
    def is_up(member: Member, peer: Member) -> bool:
        link = member.pool._links.links.get(peer.node.device_id)
        return link is not None and not link.is_closed

    await until(lambda: is_up(one, other) and is_up(other, one), within_s)


async def closed(link: Link) -> str:
    """Wait until a link is closed; return why."""
    with trio.fail_after(20):
        await link.wait_closed()
    assert link.close_reason is not None
    return link.close_reason


async def closed_for(sender: Member, receiver: Member, frames: Sequence[Frame]) -> str:
    """Send frames until the receiver closes the link for something; return for what.

    Just linked again, the two may still have a link each, of which one is about to be closed as a duplicate.
    """
    with trio.fail_after(120):
        while True:
            await until_linked(sender, receiver)
            link = link_between(receiver, sender)
            with suppress(LinkClosed):
                for frame in frames:
                    link_between(sender, receiver).post_frame(frame)
            with trio.move_on_after(10):
                await link.wait_closed()
            if link.close_reason is not None and not link.close_reason.startswith("duplicate"):
                return link.close_reason


async def history(member: Member, name: str = "garden") -> list[MsgId]:
    entries = await member.node.history(member.node.find_pool(name), limit=1000)
    return [entry.msg_id for entry in entries]


def asked_for(monkeypatch: pytest.MonkeyPatch, *messages: Message) -> None:
    """Let everybody believe that it asked whoever brings these for them."""
    ids = {message.msg_id for message in messages}
    is_awaited = Agreement.is_awaited
    monkeypatch.setattr(
        Agreement,
        "is_awaited",
        lambda self, peer, number, msg_id: msg_id in ids or is_awaited(self, peer, number, msg_id),
    )


@pytest.fixture
def nobody_is_shunned(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is at fault, whoever comes again is heard again."""
    monkeypatch.setattr("poolnet.protocol.conduct.FAULTS_PER_SHUNNING", 1000)


# --- what its author did not say ---------------------------------------------------------------------------------


FORGERIES: dict[str, Callable[[Member, Member], Message]] = {
    "in another's name": lambda eve, bob: made_up(
        eve, author=key_of(bob), signer=key_of(eve), body=encode_body(TextBody(text="forged"))
    ),
    "by somebody who never was a member": lambda eve, bob: made_up(
        eve,
        author=(stranger := DeviceKey.from_seed(bytes(32))),
        signer=stranger,
        body=encode_body(TextBody(text="forged")),
    ),
    "a text over its limit": lambda eve, bob: made_up(
        eve, author=key_of(eve), signer=key_of(eve), body=encode_cbor({"t": "x" * (MAX_TEXT_CHARS + 1)})
    ),
    "a body over its limit": lambda eve, bob: made_up(
        eve, author=key_of(eve), signer=key_of(eve), kind="app", body=bytes(MAX_BODY_SIZE + 1)
    ),
    "a body that is none": lambda eve, bob: made_up(
        eve, author=key_of(eve), signer=key_of(eve), kind="app", body=bytes(MAX_APP_SIZE)
    ),
}


@pytest.mark.usefixtures("nobody_is_shunned")
async def test_who_passes_on_what_nobody_may_say_loses_the_link_and_whoever_it_names_does_not(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path).pool("ada", "bob", "eve") as (ada, bob, eve):
        to_bob = link_between(ada, bob)
        for number, forge in enumerate(FORGERIES.values()):
            for is_answer in (False, True):
                forged = forge(eve, bob)
                if is_answer:
                    asked_for(monkeypatch, forged)
                answer = Messages(number=number, is_last=True, messages=(encode_message(forged),) * 3)
                frames = [answer] if is_answer else [Gossip(hops=1, message=encode_message(forged))] * 3
                assert "protocol" in await closed_for(eve, ada, frames)
                assert forged.msg_id not in await history(ada)
        assert ada.pool.statistics().messages.rejected == 2 * len(FORGERIES), "the first of each was the last"
        assert not to_bob.is_closed
        await bob.pool.send("it was not me")
        await ada.hears("it was not me")
        assert "forged" not in ada.texts() + bob.texts()


async def test_who_forges_again_and_again_is_kept_away_longer_and_longer_and_costs_next_to_nothing(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with World(tmp_path).pool("ada", "bob", "eve") as (ada, bob, eve), trio.open_nursery() as nursery:
        eve.pool._links._mesh._backoff_s = lambda failures: 0.0  # it does not wait as an honest one does

        async def forge() -> None:
            while True:
                if (link := eve.pool._links.links.get(ada.node.device_id)) is not None and not link.is_closed:
                    push(eve, ada, *[FORGERIES["in another's name"](eve, bob)] * 50)
                await trio.sleep(0.2)

        nursery.start_soon(forge)
        await trio.sleep(4 * MIN_SHUN_S)
        rejected = ada.pool.statistics().messages.rejected
        assert 3 <= rejected <= 10
        await bob.pool.send("still here")
        await ada.hears("still here")
        nursery.cancel_scope.cancel()


# --- what was said once -------------------------------------------------------------------------------------------


async def test_what_is_said_again_after_a_restart_is_neither_news_nor_a_fault(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolnet.pool.message_flow.RECENT_MESSAGES", 1)  # of the others only the database knows
    world = World(tmp_path)
    async with world.pool("ada", "eve") as (ada, eve):
        first = [said_by(eve, f"word {number}") for number in range(5)]
        push(eve, ada, *first)
        await ada.hears("word 4")
    async with (
        world.server(),
        world.node("ada") as ada_node,
        world.node("eve") as eve_node,
        enter(ada_node, "garden", "ada") as ada,
        enter(eve_node, "garden", "eve") as eve,
    ):
        await until_linked(ada, eve)
        link = link_between(ada, eve)
        for _ in range(3):
            push(eve, ada, *first, *reversed(first))
        push(eve, ada, said_by(eve, "new"))
        await ada.hears("new")
        assert ada.texts() == ["new"]
        assert not link.is_closed
        assert len(await history(ada)) == 6


async def test_what_was_said_in_one_pool_is_a_forgery_in_another(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.pool("ada", "bob", "eve") as (ada, bob, eve):
        msg_id = await bob.pool.send("in the garden")
        await eve.hears("in the garden")
        await trio.sleep(1)
        (message,) = await eve.pool.messages.get([msg_id])
        server = ada.node.find_pool("garden").servers[0]
        invite = await ada.node.create_pool("attic", server=server)
        async with (
            enter(ada.node, "attic", "ada") as above,
            enter(eve.node, invite, "eve") as hostile,
            enter(bob.node, invite, "bob"),
        ):
            await until_linked(above, hostile)
            link, below = link_between(above, hostile), link_between(ada, eve)
            push(hostile, above, message)
            assert "protocol" in await closed(link)
            assert above.texts() == []
            assert not below.is_closed, "it has kept to the rules there"


async def test_two_bodies_for_one_place_are_both_kept_by_all_in_one_order(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with World(tmp_path).pool("ada", "bob", "eve") as (ada, bob, eve):
        one = said_by(eve, "yes")
        other = said_by(eve, "no", hlc=one.content.hlc)
        push(eve, ada, one)
        push(eve, bob, other)
        for member in (ada, bob):
            await member.hears("yes", "no")
            assert sorted(member.texts()) == ["no", "yes"]
        expected = sorted([one.msg_id, other.msg_id])
        assert [await history(member) for member in (ada, bob)] == [expected] * 2
        await ada.pool.send("which?")
        await bob.hears("which?")
        assert (await history(bob))[:2] == expected


# --- too much of it ----------------------------------------------------------------------------------------------


async def test_a_flood_by_one_member_is_taken_slowly_and_others_are_heard_at_once(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "AUTHOR_BURST", 20.0)
    monkeypatch.setattr(quota, "AUTHOR_RATE", 0.1)
    world, _ = world_of(tmp_path, ada=0.0, bob=0.0, eve=0.0)  # whose clocks go with the time of the test
    async with world.pool("ada", "bob", "eve") as (ada, bob, eve):
        await trio.sleep(5)  # until what came with the links is compared
        links = [link_between(member, eve) for member in (ada, bob)]
        for number in range(100):
            await eve.pool.send(f"flood {number}")
        for member, hearer in ((ada, bob), (bob, ada)):
            await member.pool.send(f"{member.pool.display_name} is heard")
            await hearer.hears(f"{member.pool.display_name} is heard", within_s=2)
        await trio.sleep(2)
        for member in (ada, bob):
            assert len(member.texts()) <= 22, "more than its quota came at once"
            assert member.pool.statistics().messages.deferred > 0
        for member in (ada, bob):
            await member.hears(*[f"flood {number}" for number in range(100)], within_s=2 * DEFERRED_COMPARE_S)
        assert await history(ada) == await history(bob) == await history(eve)
        assert not any(link.is_closed for link in links), "it has broken no rule"


async def test_of_who_has_nothing_left_no_signature_is_looked_at(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "AUTHOR_BURST", 5.0)
    monkeypatch.setattr(quota, "AUTHOR_RATE", 0.0)
    verified: list[Message] = []
    async with World(tmp_path).pool("ada", "bob", "eve") as (ada, bob, eve):
        await trio.sleep(5)
        messages = [said_by(eve, f"word {number}") for number in range(200)]
        valid = poolnet.pool.inbox.signature_is_valid
        monkeypatch.setattr(
            "poolnet.pool.inbox.signature_is_valid", lambda message: (verified.append(message), valid(message))[1]
        )
        push(eve, ada, *messages)
        await trio.sleep(2)
        assert {message.msg_id for message in verified} == {message.msg_id for message in messages[:5]}
        await bob.pool.send("of another")
        await ada.hears("of another")


async def test_a_flood_of_statements_fills_no_more_than_its_share_and_a_false_one_costs_the_link(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolnet.identity.evaluation.MAX_BRANCH_STATEMENTS", 20)
    monkeypatch.setattr("poolnet.identity.membership.MAX_STATEMENTS", 80)
    monkeypatch.setattr("poolnet.identity.membership.RESERVED_STATEMENTS", 20)
    async with World(tmp_path).pool("ada", "bob", "eve") as (ada, bob, eve):
        link = link_between(ada, eve)
        invites = [invite_by(eve, number) for number in range(200)]
        for start in range(0, len(invites), 50):
            encoded = tuple(encode_statement(invite) for invite in invites[start : start + 50])
            link_between(eve, ada).post_frame(Statements(statements=encoded))
        await trio.sleep(2)
        frames = link.statistics().frames_in
        await trio.sleep(2)
        assert link.statistics().frames_in < frames + 10, "full sets tell each other for ever what they have forgotten"
        assert not link.is_closed, "they were all true"
        for member in (ada, bob):
            assert len(member.pool._membership) <= 40
            assert len(member.pool.members()) == 3
        await bob.pool.send("we go on")
        await ada.hears("we go on")
        assert await ada.node.invite(ada.node.find_pool("garden")), "there is room for what an admin states"
        false = attrs.evolve(invite_by(eve, 1000), signatures=(bytes(64),))
        link_between(eve, ada).post_frame(Statements(statements=(encode_statement(false),)))
        assert "protocol" in await closed(link)
