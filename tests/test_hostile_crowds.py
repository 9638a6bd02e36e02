"""Members that are hostile together, over real links: whole nodes, a network in memory.

Several at once send what has to be verified, as fast as their links take it; and a third of a pool, the only neighbours
of one member, tell it nothing. What a single one can say is in test_hostile_members.py.
"""

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from test_hostile_members import history, invite_by, key_of, now_of, said_by, until
from test_pool import Member, World, enter
from trio.testing import MockClock

import poolnet
from poolnet.errors import LinkClosed
from poolnet.identity.authorship import sign_message
from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import encode_statement
from poolnet.ids import DeviceId
from poolnet.limits import CHUNK_SIZE, FAULTS_PER_SHUNNING, MAX_APP_SIZE, RING_COUNT
from poolnet.net.link import Link
from poolnet.protocol.rings import Roster
from poolnet.server.places import Places
from poolnet.wire.bodies import AppBody, Body, ProfileBody, TextBody
from poolnet.wire.claims import Equal
from poolnet.wire.framing import Frame
from poolnet.wire.message import Message, encode_message
from poolnet.wire.pool_frames import Compare, Gossip, GossipHave, Messages, Statements

pytestmark = pytest.mark.timeout(240)

FALSE = bytes(64)


# --- signatures ---------------------------------------------------------------------------------------------------


def false(author: Member, body: Body, *, key: DeviceKey | None = None) -> Message:
    """Return a message that its author did not sign."""
    genuine = sign_message(key or key_of(author), pool_id=author.pool.pool_id, hlc=now_of(author), body=body)
    return attrs.evolve(genuine, signature=FALSE)


def pushed(make: Callable[[int], Message]) -> Iterator[Frame]:
    """Yield different messages without end, as gossip brings them."""
    for number in itertools.count():
        yield Gossip(hops=1, message=encode_message(make(number)))


def in_answers(make: Callable[[int], Message]) -> Iterator[Frame]:
    """Yield them as answers to what nobody asked for."""
    for number in itertools.count():
        messages = tuple(encode_message(make(10 * number + place)) for place in range(10))
        yield Messages(number=number % 4, is_last=False, messages=messages)


def as_statements(eve: Member) -> Iterator[Frame]:
    """Yield statements that their author did not sign."""
    for number in itertools.count():
        statements = (invite_by(eve, 10 * number + place) for place in range(10))
        encoded = (encode_statement(attrs.evolve(statement, signatures=(FALSE,))) for statement in statements)
        yield Statements(statements=tuple(encoded))


STRANGER = DeviceKey.from_seed(bytes(32))
#: What is sent, and how often a member looks at the signatures of one device until it has had enough.
FLOODS: dict[str, tuple[Callable[[Member, Member], Iterator[Frame]], int]] = {
    "in their own names": (
        lambda eve, bob: pushed(lambda number: false(eve, TextBody(text=f"{number}"))),
        FAULTS_PER_SHUNNING,
    ),
    "in another's name": (
        lambda eve, bob: pushed(lambda number: false(bob, TextBody(text=f"{number}"))),
        FAULTS_PER_SHUNNING,
    ),
    "the same one": (
        lambda eve, bob: itertools.repeat(next(pushed(lambda _number: false(eve, TextBody(text="again"))))),
        FAULTS_PER_SHUNNING,
    ),
    "as large as can be": (
        lambda eve, bob: pushed(lambda _number: false(eve, AppBody(name="large", data=bytes(MAX_APP_SIZE)))),
        FAULTS_PER_SHUNNING,
    ),
    "what stands however old it is": (
        lambda eve, bob: pushed(lambda number: false(eve, ProfileBody(name=f"{number}"))),
        FAULTS_PER_SHUNNING,
    ),
    "of who never was a member": (
        lambda eve, bob: pushed(lambda number: false(eve, TextBody(text=f"{number}"), key=STRANGER)),
        0,
    ),
    "in answers": (lambda eve, bob: in_answers(lambda number: false(eve, TextBody(text=f"{number}"))), 0),
    "true ones in answers": (lambda eve, bob: in_answers(lambda number: said_by(eve, f"{number}")), 0),
    "as statements": (lambda eve, bob: as_statements(eve), FAULTS_PER_SHUNNING),
}


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each signature was looked at, by anybody."""
    counts: Counter[bytes] = Counter()
    verify = poolnet.identity.keys.verify_signature

    def counted(key: Any, signature: bytes, signed: bytes) -> bool:
        counts[signature] += 1
        return verify(key, signature, signed)

    for module in ("authorship", "statements"):
        monkeypatch.setattr(f"poolnet.identity.{module}.verify_signature", counted)
    return counts


async def flood(hostile: Member, victim: Member, frames: Iterator[Frame], sent: Counter[DeviceId]) -> None:
    """Send as much as the link takes, come back whenever there is none, until cancelled."""
    hostile.pool._links._mesh._backoff_s = lambda _failures: 0.0  # an honest one waits
    while True:
        with suppress(LinkClosed):
            while (link := hostile.pool._links.links.get(victim.node.device_id)) is not None:
                await link.send_frame(next(frames))
                sent[hostile.node.device_id] += 1
        await trio.sleep(0.1)


@pytest.mark.parametrize("kind", FLOODS)
async def test_however_many_false_signatures_come_of_several_devices_a_few_are_looked_at_and_the_honest_are_heard(
    tmp_path: Path, jumping_clock: MockClock, verified: Counter[bytes], kind: str
) -> None:
    make, most = FLOODS[kind]
    async with World(tmp_path).pool("ada", "bob", "eve", "fay") as (ada, bob, *hostile):
        sent = Counter[DeviceId]()
        async with trio.open_nursery() as nursery:
            for member in hostile:
                nursery.start_soon(flood, member, ada, make(member, bob), sent)
            texts = [f"of the honest {number}" for number in range(5)]
            for text in texts:
                await bob.pool.send(text)
                await trio.sleep(2)
            await ada.hears(*texts, within_s=10)
            nursery.cancel_scope.cancel()
        assert min(sent[member.node.device_id] for member in hostile) >= FAULTS_PER_SHUNNING, "that was no flood"
        assert verified[FALSE] <= most * len(hostile)
        assert (verified[FALSE] > 0) == (most > 0)
        assert len(await history(ada)) == len(texts), "nothing else was taken"
        assert ada.pool.statistics().conduct.shunned == len(hostile)
        assert ada.texts() == texts


# --- surrounded ---------------------------------------------------------------------------------------------------


class Conspiracy:
    """Members that keep everything from one: they pass nothing on, find histories equal, promise and send nothing.

    Attributes:
        kept: what they kept from the victim, by kind.
    """

    def __init__(self, victim: Member, colluders: Sequence[Member]) -> None:
        self.kept: Counter[str] = Counter()
        self._victim = victim.node.device_id
        self._colluders = colluders

    def join(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin."""
        post, send, send_chunk = Link.post_frame, Link.send_frame, Link.send_chunk

        def post_frame(link: Link, frame: Frame) -> None:
            if (said := self._said(link, frame)) is not None:
                post(link, said)

        async def send_frame(link: Link, frame: Frame) -> None:
            if (said := self._said(link, frame)) is not None:
                await send(link, said)

        async def send_nothing(link: Link, header: Any, payload: bytes) -> None:
            if self._is_ours(link):
                self.kept["pieces"] += 1
                await trio.sleep(0.01)
            else:
                await send_chunk(link, header, payload)

        monkeypatch.setattr(Link, "post_frame", post_frame)
        monkeypatch.setattr(Link, "send_frame", send_frame)
        monkeypatch.setattr(Link, "send_chunk", send_nothing)

    def _is_ours(self, link: Link) -> bool:
        return any(member.pool._links.links.get(self._victim) is link for member in self._colluders)

    def _said(self, link: Link, frame: Frame) -> Frame | None:
        """Return what is sent in place of a frame; None for nothing."""
        if not self._is_ours(link):
            return frame
        match frame:
            case Gossip() | GossipHave():
                self.kept["messages"] += 1
                return None
            case Compare(claims=claims) if claims:
                self.kept["comparisons"] += 1
                return attrs.evolve(frame, claims=(Equal(claims[-1].upper),))
            case Messages():
                return attrs.evolve(frame, messages=())
            case _:
                return frame


def surround(victim: DeviceId, colluders: Sequence[DeviceId], others: Sequence[DeviceId]) -> dict[DeviceId, list[int]]:
    """Return places such that one has two of the colluders beside it on each ring."""
    middle = 2**32
    places: dict[DeviceId, list[int]] = {device: [] for device in (victim, *colluders, *others)}
    for ring in range(RING_COUNT):
        before, after, away = (colluders[(ring + turn) % len(colluders)] for turn in range(3))
        for device, place in ((victim, middle), (before, middle - 1), (after, middle + 1)):
            places[device].append(place)
        for number, device in enumerate([away, *others[ring:], *others[:ring]]):
            places[device].append(middle + 100 + number)
    return places


@asynccontextmanager
async def surrounded_pool(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Member, list[Member], list[Member]]]:
    """Nine members, of whom three are the only neighbours of one: yield that one, the three, and the other five."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(world.server())
        names = ["victim", *(f"colluder {number}" for number in range(3)), *(f"honest {number}" for number in range(5))]
        nodes = [await stack.enter_async_context(world.node(name)) for name in names]
        devices = [node.device_id for node in nodes]
        places = surround(devices[0], devices[1:4], devices[4:])
        monkeypatch.setattr(Places, "of", lambda _self, device: tuple(places[device]))
        invite = await nodes[4].create_pool("garden", server=server.address)
        members = {}
        for name, node in sorted(zip(names, nodes, strict=True), key=lambda pair: pair[1] is not nodes[4]):
            members[name] = await stack.enter_async_context(enter(node, invite, name))
        victim, *others = (members[name] for name in names)
        await until(lambda: len(victim.pool._roster) == len(names))
        yield victim, others[:3], others[3:]


async def test_a_third_of_all_that_surrounds_one_keeps_neither_messages_nor_files_from_it(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(range(256)) * (4 * CHUNK_SIZE // 256) + b"the end")
    async with surrounded_pool(World(tmp_path), monkeypatch) as (victim, colluders, honest):
        roster: Roster = victim.pool._roster
        their_ids = {member.node.device_id for member in colluders}
        assert roster.neighbours(victim.node.device_id) == their_ids
        await until(lambda: their_ids <= victim.pool._links.links.keys())
        conspiracy = Conspiracy(victim, colluders)
        conspiracy.join(monkeypatch)
        texts = [f"{number} by {member.pool.display_name}" for number in range(3) for member in honest]
        for number in range(3):
            for member in honest:
                await member.pool.send(f"{number} by {member.pool.display_name}")
            await trio.sleep(5)
        offer = await honest[0].pool.files.offer(source)
        for member in colluders:
            await member.sees(poolnet.FileOffered)
            await member.pool.files.download(offer.file_id, tmp_path / member.pool.display_name)
        await victim.hears(*texts, within_s=180)
        await until(lambda: any(found.file_id == offer.file_id for found in victim.pool.files.offers()), within_s=180)
        with trio.fail_after(180):
            path = await victim.pool.files.download(offer.file_id, tmp_path / "copy.bin")
        assert path.read_bytes() == source.read_bytes()
        assert set(conspiracy.kept) == {"messages", "comparisons", "pieces"}, "they kept nothing from it"
        assert set(await history(victim)) >= set(await history(honest[0]))
        blamed = {info.node for info in victim.pool.members() if info.conduct not in (None, "clock")}
        assert blamed <= their_ids
