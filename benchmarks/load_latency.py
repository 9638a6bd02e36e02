"""How long texts take while the same members move chunks at full speed.

    python -m benchmarks.load_latency [--size-mib 4096] [--messages 60] [--interval 0.05] [--quic]

Three members over loopback: two fetch a large file of the first, and pass pieces of it on to each other, while all talk
in turn. The file is so large that it is not there when the talk ends; that is checked.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from benchmarks.pool_of_processes import MemberProcess, open_pool
from benchmarks.transfer import write_random
from poolnet.limits import MIB

MEMBERS = 3


async def talk(members: list[MemberProcess], messages: int, interval_s: float) -> list[float]:
    """Send texts in turn; return the latencies of all deliveries to others, in milliseconds."""
    latencies: list[float] = []
    for number in range(messages):
        sender, text = members[number % len(members)], f"message {number}"
        start = time.monotonic()
        await sender.tell("send", text=text)
        for member in members:
            row = await member.hear("message")
            assert row["text"] == text, "a message was lost or out of order"
            if member is not sender:
                latencies.append((row["at"] - start) * 1000)
        await trio.sleep(interval_s)
    return latencies


async def measure(size_mib: int, messages: int, interval_s: float, **options: Any) -> dict[str, Any]:
    """Talk during a transfer; return the figures."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source.bin"
        write_random(source, size_mib)
        async with open_pool(Path(name), MEMBERS, **options) as members:
            await trio.sleep(1)
            await members[0].tell("offer", path=str(source))
            file_id = (await members[0].hear("offered"))["file_id"]
            for number, member in enumerate(members[1:]):
                await member.hear("offer")
                await member.tell("get", file_id=file_id, out=str(source.with_name(f"copy{number}.bin")))
            await trio.sleep(0.5)
            start = trio.current_time()
            latencies = sorted(await talk(members, messages, interval_s))
            seconds = trio.current_time() - start
            moved = 0
            for member in members[1:]:
                await member.tell("stats")
                bytes_in = (await member.hear("stats"))["bytes_in"]
                assert bytes_in < size_mib * MIB, "the file was there before the talk ended: take a larger one"
                moved += bytes_in
    return {
        "bench": "load_latency",
        "deliveries": len(latencies),
        "median_ms": round(statistics.median(latencies), 1),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)], 1),
        "max_ms": round(latencies[-1], 1),
        "mib_per_s_meanwhile": round(moved / MIB / seconds, 1),
        **options,
    }


def main() -> None:
    """Read the arguments, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=4096)
    parser.add_argument("--messages", type=int, default=60)
    parser.add_argument("--interval", type=float, default=0.05)
    parser.add_argument("--quic", action="store_true", help="chunks over QUIC alone")
    args = parser.parse_args()
    print(json.dumps(trio.run(_measure_with, args.size_mib, args.messages, args.interval, not args.quic)))


async def _measure_with(size_mib: int, messages: int, interval_s: float, tcp: bool) -> dict[str, Any]:
    return await measure(size_mib, messages, interval_s, tcp=tcp)


if __name__ == "__main__":
    main()
