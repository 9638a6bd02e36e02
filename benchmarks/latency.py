"""How long a text takes to four others in an idle pool of five processes, from `send` to their events.

python -m benchmarks.latency [--messages 100] [--interval 0.05]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from benchmarks.pool_of_processes import open_pool

MEMBERS = 5


async def measure(messages: int, interval_s: float) -> dict[str, Any]:
    """Send `messages` texts one after another; return the latencies of all deliveries, in milliseconds."""
    latencies: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        async with open_pool(Path(name), MEMBERS) as members:
            for number in range(messages):
                sender = members[number % MEMBERS]
                start = time.monotonic()
                await sender.tell("send", text=f"message {number}")
                for member in members:
                    row = await member.hear("message")
                    assert row["text"] == f"message {number}", "a message was lost or out of order"
                    if member is not sender:
                        latencies.append((row["at"] - start) * 1000)
                await trio.sleep(interval_s)
    latencies.sort()
    return {
        "bench": "latency",
        "deliveries": len(latencies),
        "median_ms": round(statistics.median(latencies), 2),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)], 2),
        "max_ms": round(latencies[-1], 2),
    }


def main() -> None:
    """Read the arguments, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--interval", type=float, default=0.05)
    args = parser.parse_args()
    print(json.dumps(trio.run(measure, args.messages, args.interval)))


if __name__ == "__main__":
    main()
