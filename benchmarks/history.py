"""How fast a long history is: a million messages in sessions of a few hundred, as people write them.

python -m benchmarks.history [--messages 1000000]
"""

import argparse
import functools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import trio

from poolnet.clock import Hlc, make_hlc
from poolnet.ids import PoolId, PublicKey
from poolnet.message_db import MessageDB, open_message_db
from poolnet.protocol.key_set import KeySet
from poolnet.wire.bodies import RetractMessageBody, TextBody, encode_body
from poolnet.wire.claims import HIGHEST, LOWEST
from poolnet.wire.message import Message, MessageContent, encode_content, message_id

POOL = PoolId(bytes(32))
BATCH = 1000
RUNS = 15
#: Some thousand words, a few of them common.
WORDS = [f"{''.join(letters)}{n}" for n in range(200) for letters in zip("aeioubcdfg", "lmnrstlmnr", strict=True)]


def make_messages(count: int, rng: random.Random) -> Iterator[Message]:
    """Yield texts of 60 authors: 8 s apart on average, and a silence now and then."""
    unix_ms = 1_500_000_000_000
    for _ in range(count):
        unix_ms += 4 * 3_600_000 if rng.random() < 1 / 300 else rng.randrange(16_000)
        words = (WORDS[int(len(WORDS) * rng.random() ** 3)] for _ in range(rng.randrange(2, 20)))
        yield make_message(make_hlc(unix_ms), "text", encode_body(TextBody(text=" ".join(words))), rng.randrange(60))


def make_message(hlc: Hlc, kind: str, body: bytes, author: int) -> Message:
    """Make a message with a signature of random bytes, which do not compress."""
    content = MessageContent(pool_id=POOL, kind=kind, hlc=hlc, author_key=PublicKey(bytes([author]) * 32), body=body)
    signed = encode_content(content)
    msg_id = message_id(signed)
    return Message(msg_id=msg_id, content=content, signed=signed, signature=msg_id * 2)


async def measure(count: int) -> AsyncIterator[dict[str, Any]]:
    """Fill a history, then measure what people and nodes do with one; yield a result each."""
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "messages.db"
        messages = make_messages(count, rng)
        async with open_message_db(path, POOL) as db:
            filled = time.perf_counter()
            while batch := [message for _, message in zip(range(BATCH), messages, strict=False)]:
                await db.append(batch)
            filled = time.perf_counter() - filled
        yield {"what": "fill", "s": round(filled, 1), "bytes_per_message": round(path.stat().st_size / count)}
        yield await timed("open", functools.partial(_open, path))
        async with open_message_db(path, POOL) as db:
            async for result in _measure_open(db, rng):
                yield result


async def timed(what: str, call: Callable[[], Awaitable[object]]) -> dict[str, Any]:
    """Run `call` some times and return the shortest, the median and the longest time."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        await call()
        times.append((time.perf_counter() - start) * 1000)
    return {
        "what": what,
        "min_ms": round(min(times), 2),
        "median_ms": round(statistics.median(times), 2),
        "max_ms": round(max(times), 2),
    }


async def _open(path: Path) -> None:
    async with open_message_db(path, POOL):
        pass


async def _measure_open(db: MessageDB, rng: random.Random) -> AsyncIterator[dict[str, Any]]:
    first, last = (await db.after(LOWEST, 1))[0], (await db.latest(1))[0]

    async def somewhere() -> Message:
        bound = (rng.randrange(first.content.hlc, last.content.hlc), b"")
        return (await db.before(bound, 1) or [first])[0]

    places = iter([await somewhere() for _ in range(10 * RUNS)])
    now = iter(range(1, sys.maxsize))

    def new(apart_ms: int) -> list[Message]:
        start = last.content.hlc + make_hlc(next(now) * 3_600_000)
        return [
            make_message(Hlc(start + make_hlc(n * apart_ms)), "text", encode_body(TextBody(text=f"new {n}")), n % 60)
            for n in range(BATCH)
        ]

    def late() -> list[Message]:
        hlcs = (Hlc(rng.randrange(first.content.hlc, last.content.hlc)) for _ in range(BATCH))
        return [make_message(hlc, "text", encode_body(TextBody(text="late")), 1) for hlc in hlcs]

    async def retract() -> None:
        target = next(places)
        author = target.content.author_key[0]
        body = encode_body(RetractMessageBody(msg_id=target.msg_id))
        await db.append([make_message(Hlc(target.content.hlc + 1), "retract_message", body, author)])

    yield await timed("latest 50", lambda: db.latest(50))
    yield await timed("latest 50 of two kinds", lambda: db.latest(50, kinds=("text", "announcement")))
    yield await timed("before 50", lambda: db.before(next(places).key, 50))
    yield await timed("around 25", lambda: db.around(next(places).msg_id, 25))
    yield await timed("search a common word", lambda: db.search(WORDS[0]))
    yield await timed("search a rare word", lambda: db.search(f"{WORDS[-1]} {WORDS[-2]} {WORDS[-3]}"))
    yield await timed("sessions 50", lambda: db.sessions(limit=50))
    yield await timed("summary of all", lambda: db.summary(LOWEST, HIGHEST))
    yield await timed("16 parts of all", lambda: db.with_keys(_cut))
    fresh = iter([new(1000) for _ in range(RUNS)])
    yield await timed("append 1000 new", lambda: db.append(next(fresh)))
    spread = iter([late() for _ in range(RUNS)])
    yield await timed("append 1000 late, anywhere", lambda: db.append(next(spread)))
    yield await timed("append 1 durably", lambda: db.append(new(1)[:1], durable=True))
    yield await timed("retract 1", retract)


def _cut(keys: KeySet) -> object:
    return keys.parts(LOWEST, HIGHEST, 16)


async def report(count: int) -> None:
    """Measure and print, a JSON line each."""
    async for result in measure(count):
        print(json.dumps({"bench": "history", "messages": count, **result}), flush=True)


def main() -> None:
    """Read the arguments, print one JSON line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    trio.run(report, parser.parse_args().messages)


if __name__ == "__main__":
    main()
