"""What it costs two nodes to find that their histories are the same, or in which ten messages they differ.

Bytes are those of all frames both ways, round trips count to the last message stored, and time is that of both sides'
processing together, with the keys in memory or in the database.

python -m benchmarks.reconciliation [--sizes 1000 100000 1000000]
"""

import argparse
import contextlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio

from poolnet.clock import Hlc, make_hlc
from poolnet.ids import DeviceId, MsgId, PoolId, PublicKey
from poolnet.message_db import MessageDB, open_message_db
from poolnet.protocol import agreement
from poolnet.protocol.reconcile import LOWEST, KeySet, MemoryKeys
from poolnet.wire.framing import encode_frame
from poolnet.wire.message import (
    Message,
    MessageContent,
    decode_message_untrusted,
    encode_content,
    encode_message,
    message_id,
)
from poolnet.wire.pool_frames import Messages

POOL = PoolId(bytes(32))
UNIX_MS = 1_750_000_000_000
#: All messages are in the automatic window.
SPAN_MS = 6 * 24 * 3_600_000
BATCH = 1000
DIFFERENT = 10
TEXT = b"x" * 100


class Store(Protocol):
    """Where one side keeps its messages."""

    async def look(self, call: Callable[[KeySet], Any]) -> Any:
        """Return ``call(keys)``."""

    async def get(self, ids: Sequence[MsgId]) -> list[Message]:
        """Return the messages with these ids."""

    async def append(self, messages: Sequence[Message]) -> object:
        """Store messages."""


class MemoryStore:
    """Keys in memory; of the messages only those that the other side lacks are kept."""

    def __init__(self, keys: MemoryKeys) -> None:
        self._keys = keys
        self._messages: dict[MsgId, Message] = {}

    async def look(self, call: Callable[[KeySet], Any]) -> Any:
        """See `Store`."""
        return call(self._keys)

    async def get(self, ids: Sequence[MsgId]) -> list[Message]:
        """See `Store`."""
        return [self._messages[msg_id] for msg_id in ids]

    async def append(self, messages: Sequence[Message]) -> object:
        """See `Store`."""
        for message in messages:
            self._messages[message.msg_id] = message
            self._keys.add(message.key)
        return None


class DatabaseStore:
    """A database."""

    def __init__(self, db: MessageDB) -> None:
        self._db = db

    async def look(self, call: Callable[[KeySet], Any]) -> Any:
        """See `Store`."""
        return await self._db.with_keys(call)

    async def get(self, ids: Sequence[MsgId]) -> list[Message]:
        """See `Store`."""
        return await self._db.get(ids)

    async def append(self, messages: Sequence[Message]) -> object:
        """See `Store`."""
        return await self._db.append(messages)


class Side:
    """One node: its machine, and what it does at the machine's word."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = DeviceId(name.encode() * 32)
        self.out: list[Any] = []  # frames
        self.sent_bytes = 0
        self._store = store
        self.machine = agreement.Agreement(
            random.Random(1),
            unix_ms=lambda: UNIX_MS,
            is_pending=lambda msg_id: False,
            is_held=lambda msg_id: False,
            known_from=LOWEST,
        )

    async def handle(self, event: agreement.AgreementEvent, now: float) -> None:
        """Feed the machine."""
        await self.perform(self.machine.handle(event, now), now)

    async def perform(self, effects: Sequence[agreement.AgreementEffect], now: float) -> None:
        """Do what it says."""
        for effect in effects:
            match effect:
                case agreement.SendFrame(_, frame):
                    self._send(frame)
                case agreement.Step(step, call):
                    await self.handle(agreement.Stepped(step, await self._store.look(call)), now)
                case agreement.Serve(peer, number, ids):
                    messages = await self._store.get(ids)
                    for answer in agreement.pack_messages(number, map(encode_message, messages)):
                        self._send(answer)
                    await self.handle(agreement.Served(peer, number), now)

    async def receive(self, peer: DeviceId, frame: Any, now: float) -> None:
        """Take a frame."""
        if isinstance(frame, Messages):
            messages = [decode_message_untrusted(encoded, POOL) for encoded in frame.messages]
            await self._store.append(messages)
            ids = tuple(message.msg_id for message in messages)
            await self.handle(agreement.Arrived(peer, frame.number, ids, frame.is_last), now)
            await self.handle(agreement.Stored(ids), now)
        else:
            await self.handle(agreement.Received(peer, frame), now)

    def _send(self, frame: Any) -> None:
        self.sent_bytes += len(encode_frame(frame))
        self.out.append(frame)


async def compare(one: Store, other: Store) -> dict[str, Any]:
    """Let two sides compare over a new link until nothing is to be done; return what it cost."""
    a, b = Side("a", one), Side("b", other)
    now = 0.0
    start = time.perf_counter()
    await a.handle(agreement.LinkUp(b.name, is_dialler=True), now)
    await b.handle(agreement.LinkUp(a.name, is_dialler=False), now)
    trips = 0
    while a.out or b.out or a.machine.statistics().wanted or b.machine.statistics().wanted:
        if not a.out and not b.out:
            now += 0.5  # gossip may bring it
            await a.perform(a.machine.tick(now), now)
            await b.perform(b.machine.tick(now), now)
        trips += 1
        from_a, from_b, a.out, b.out = a.out, b.out, [], []
        for frame in from_a:
            await b.receive(a.name, frame, now)
        for frame in from_b:
            await a.receive(b.name, frame, now)
    return {
        "bytes": a.sent_bytes + b.sent_bytes,
        "round_trips": trips / 2,
        "ms": round((time.perf_counter() - start) * 1000, 1),
        "fetched": a.machine.statistics().fetched + b.machine.statistics().fetched,
    }


def make_messages(count: int, *, salt: bytes = b"") -> Iterator[Message]:
    """Yield messages spread over the window, in order."""
    rng = random.Random(b"messages" + salt)
    for number in range(count):
        unix_ms = UNIX_MS - SPAN_MS + (number * SPAN_MS + rng.randrange(SPAN_MS)) // count
        content = MessageContent(
            pool_id=POOL, kind="text", hlc=Hlc(make_hlc(unix_ms)), author_key=PublicKey(bytes(32)), body=TEXT + salt
        )
        signed = encode_content(content)
        msg_id = message_id(signed)
        yield Message(msg_id=msg_id, content=content, signed=signed, signature=msg_id * 2)


def halves() -> tuple[list[Message], list[Message]]:
    """Return the messages that only one side has, and those that only the other has."""
    messages = list(make_messages(DIFFERENT, salt=b"different"))
    return messages[::2], messages[1::2]


@contextlib.asynccontextmanager
async def memory_stores(count: int) -> AsyncIterator[tuple[Store, Store]]:
    """Yield two stores with the same messages, in memory."""
    keys = [message.key for message in make_messages(count)]
    yield MemoryStore(MemoryKeys(keys)), MemoryStore(MemoryKeys(keys))


@contextlib.asynccontextmanager
async def database_stores(count: int) -> AsyncIterator[tuple[Store, Store]]:
    """Yield two stores with the same messages, in databases."""
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / "one.db", Path(name) / "other.db"]
        messages = make_messages(count)
        async with open_message_db(paths[0], POOL) as db:
            while batch := [message for _, message in zip(range(BATCH), messages, strict=False)]:
                await db.append(batch)
        shutil.copy(paths[0], paths[1])
        async with open_message_db(paths[0], POOL) as one, open_message_db(paths[1], POOL) as other:
            yield DatabaseStore(one), DatabaseStore(other)


async def measure(sizes: Sequence[int]) -> AsyncIterator[dict[str, Any]]:
    """Compare histories of these sizes, equal ones and then with ten messages different; yield a result each."""
    for count in sizes:
        for keys_in, open_stores in (("memory", memory_stores), ("database", database_stores)):
            async with open_stores(count) as stores:
                yield _result(keys_in, count, 0, await compare(*stores))
                for store, messages in zip(stores, halves(), strict=True):
                    await store.append(messages)
                yield _result(keys_in, count, DIFFERENT, await compare(*stores))


def _result(keys_in: str, count: int, different: int, cost: dict[str, Any]) -> dict[str, Any]:
    assert cost["fetched"] == different, "not all was found"
    return {"bench": "reconciliation", "keys_in": keys_in, "messages": count, "different": different, **cost}


async def report(sizes: Sequence[int]) -> None:
    """Measure, and print one JSON line each."""
    async for result in measure(sizes):
        print(json.dumps(result), flush=True)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    args = parser.parse_args()
    trio.run(report, args.sizes)


if __name__ == "__main__":
    main()
