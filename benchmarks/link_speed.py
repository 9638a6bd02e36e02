"""How fast a link moves chunks from memory to memory, next to TLS over TCP in the same run.

Two processes over loopback: the parent receives, the child sends. Run `python -m benchmarks.link_speed [MiB]
[--carrier tcp|quic]`; prints raw trio TLS over TCP (raw_tls.py), the lane of a link, and QUIC with two datagram sizes,
each with its ratio to the first. Of links also how long a frame takes there and
back meanwhile: the median, and the slowest of a hundred.
"""

import argparse
import random
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import trio

from benchmarks import raw_tls
from poolnet.errors import LinkClosed
from poolnet.identity.keys import DeviceKey
from poolnet.ids import FileId, PoolId, PublicKey
from poolnet.limits import CHUNK_SIZE
from poolnet.net.endpoint import open_endpoint
from poolnet.net.link import Link
from poolnet.wire.link_frames import Hello, Purpose
from poolnet.wire.pool_frames import Prune
from poolnet.wire.swarm_frames import ChunkHeader

DEFAULT_SIZE_MIB = 256
MAX_SIZE_MIB = 2048
#: Over the lane four times as much, since it is fast.
TCP_FACTOR = 4
DATAGRAM_SIZES = (16370, 1452)
TIME_LIMIT_S = 120.0
FRAME_INTERVAL_S = 0.01

MIB = 1024 * 1024
CARRIERS = ("tcp", "quic")

R = TypeVar("R")


class Result(NamedTuple):
    """What the receiver measured."""

    name: str
    rate_mib_s: float
    cpu_s: float
    round_trips_ms: list[float]


def admit_all(_hello: Hello) -> tuple[bytes, ...]:
    """Let everyone in; both ends are ours."""
    return ()


async def receive_chunks(name: str, size_mib: int, datagram_size: int, carrier: str) -> Result:
    """Accept a link from a child process and take its chunks."""
    key = DeviceKey(secrets.token_bytes(32))
    count = size_mib * MIB // CHUNK_SIZE
    async with (
        open_endpoint(
            key=key, listen=("127.0.0.1", 0), authorise=admit_all, rng=random.Random(1), tcp=carrier == "tcp"
        ) as endpoint,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(
            run_sender, str(endpoint.address[1]), key.public_key.hex(), str(datagram_size), str(count), carrier
        )
        link = await endpoint.accept()
        link.set_chunk_filter(lambda _file, _piece: True)
        await carried_by(link, carrier)
        link.post_frame(Prune())  # ready: what came before the filter would be dropped, and waited for in vain
        trips: list[float] = []
        nursery.start_soon(time_frames, link, trips)
        started, cpu = time.perf_counter(), time.process_time()
        received = 0
        while received < count:
            received += len(await link.receive_chunks())
        elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
        nursery.cancel_scope.cancel()
        await link.aclose()
    return Result(name, size_mib / elapsed, cpu, trips)


async def send_chunks(port: int, key: PublicKey, datagram_size: int, count: int, carrier: str) -> None:
    """Dial the parent and send."""
    payload = secrets.token_bytes(CHUNK_SIZE)
    own = DeviceKey(secrets.token_bytes(32))
    async with open_endpoint(
        key=own, listen=("127.0.0.1", 0), authorise=admit_all, rng=random.Random(2), tcp=carrier == "tcp"
    ) as endpoint:
        link = await endpoint.dial(
            ("127.0.0.1", port),
            peer_key=key,
            hello_purpose=Purpose.POOL,
            pool_id=PoolId(bytes(32)),
            credentials=(),
            datagram_size=datagram_size,
        )
        await carried_by(link, carrier)
        await link.receive_frame()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, link)
            for piece in range(count):
                await link.send_chunk(ChunkHeader(file_id=FileId(bytes(32)), piece=piece, size=CHUNK_SIZE), payload)


async def carried_by(link: Link, carrier: str) -> None:
    """Wait until chunks go that way."""
    while link.carrier != carrier:  # noqa: ASYNC110  # of what tells nobody
        await trio.sleep(0.001)


async def time_frames(link: Link, trips_ms: list[float]) -> None:
    """Send a frame now and then, and note how long the same takes to come back."""
    while True:
        started = time.perf_counter()
        await link.send_frame(Prune())
        await link.receive_frame()
        trips_ms.append(1000 * (time.perf_counter() - started))
        await trio.sleep(FRAME_INTERVAL_S)


async def echo(link: Link) -> None:
    """Send frames back until the link is closed."""
    with suppress(LinkClosed):
        while True:
            await link.send_frame(await link.receive_frame())


async def run_sender(*arguments: str) -> None:
    """Run this module as the sender, in a process of its own; an error of it is one of ours."""
    await trio.run_process([sys.executable, "-m", "benchmarks.link_speed", "--child", *arguments])


def limited(function: Callable[..., Awaitable[R]], *arguments: object) -> R:
    """Run an async function with the time limit."""

    async def main() -> R:
        with trio.fail_after(TIME_LIMIT_S):
            return await function(*arguments)

    return trio.run(main)


def run_child(port: str, key: str, datagram_size: str, count: str, carrier: str) -> None:
    """Be the sender."""
    limited(send_chunks, int(port), PublicKey(bytes.fromhex(key)), int(datagram_size), int(count), carrier)


def measure(size_mib: int, carriers: Sequence[str]) -> list[Result]:
    """Return the results of the wanted ways; the raw one first."""
    results = [Result("trio TLS over TCP", raw_tls.measure(TCP_FACTOR * size_mib), 0.0, [])]
    if "tcp" in carriers:
        results.append(limited(receive_chunks, "link, TCP", TCP_FACTOR * size_mib, DATAGRAM_SIZES[0], "tcp"))
    if "quic" in carriers:
        results += [
            limited(receive_chunks, f"link, datagrams of {size}", size_mib, size, "quic") for size in DATAGRAM_SIZES
        ]
    return results


def main() -> None:
    """Measure, and print the table."""
    if sys.argv[1:2] == ["--child"]:
        run_child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description="bytes a second over one link")
    parser.add_argument("size_mib", nargs="?", type=int, default=DEFAULT_SIZE_MIB)
    parser.add_argument("--carrier", choices=CARRIERS, action="append", help="only this one")
    options = parser.parse_args()
    results = measure(min(options.size_mib, MAX_SIZE_MIB), options.carrier or CARRIERS)
    for result in results:
        ratio = result.rate_mib_s / results[0].rate_mib_s
        print(f"{result.name:26} {result.rate_mib_s:7.1f} MiB/s  {ratio:5.2f} × TCP", end="")
        if trips := sorted(result.round_trips_ms):
            slow = trips[len(trips) * 99 // 100]
            print(f"  receiver's cpu {result.cpu_s:.2f} s  frames {trips[len(trips) // 2]:.1f} – {slow:.1f} ms", end="")
        print()


if __name__ == "__main__":
    main()
