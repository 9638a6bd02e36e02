"""Texts from one member to nine others, all in processes of their own: latency, processor time, bytes on the wire.

    python -m benchmarks.messages [--rates 40,100,200,400] [--secs 5] [--burst 5000] [--size 200]

One JSON line a rate. `send` is called at that rate, whether or not earlier calls have returned; `published_per_s` falls
behind `offered_per_s` where this device cannot keep up. Latency is from the time in the text, taken when it is handed
over, to the event at a member; every message is signed, on the sender's disk before it leaves, verified and stored by
everyone. Then a burst: as many as `send` takes one after another. Bytes are those of the loopback interface, headers,
acknowledgements and announcements included, in a network namespace of our own where we may have one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import attrs
import trio

from benchmarks.pool_of_processes import MemberProcess, open_pool

MEMBERS = 10
#: Links that each member waits for. On three rings it has two to six different neighbours.
LINKS = 2
#: After the links are up: those that a smaller pool needed are closed after `LINK_GRACE_S`.
SETTLE_S = 12.0
#: What is still under way after the last `send` has this long to arrive.
PATIENCE_S = 15.0
_ALONE = "POOLNET_BENCH_NAMESPACE"


@attrs.define
class Pool:
    """A publisher and those who listen."""

    members: list[MemberProcess]
    published: int = 0

    async def publish(self, *, size: int, rate: float = 0.0, secs: float = 0.0, count: int = 0) -> dict[str, Any]:
        """Publish for a time at a rate, or a number as fast as `send` returns; return what came of it."""
        bytes_before, packets_before = loopback("bytes"), loopback("packets")
        cpu_before, start = await self._cpu_s(), time.monotonic()
        count = count or round(rate * secs)
        await self.members[0].tell("publish", rate=rate, count=count, size=size, first=self.published)
        seconds = (await self.members[0].hear("published"))["seconds"]
        self.published += count
        wanted = count * (len(self.members) - 1)
        latencies, last, missed = await self._gather(wanted)
        return {
            "published": count,
            "published_per_s": round(count / seconds, 1),
            "delivered_fraction": round(len(latencies) / wanted, 5),
            "events_missed": missed,
            "p50_ms": quantile(latencies, 0.5),
            "p99_ms": quantile(latencies, 0.99),
            "max_ms": quantile(latencies, 1),
            "seconds_to_last": round(last - start, 2),
            "cpu_s": round(await self._cpu_s() - cpu_before, 2),
            "cpu_ms_per_message": round((await self._cpu_s() - cpu_before) / count * 1000, 2),
            "wire_bytes_per_message": round((loopback("bytes") - bytes_before) / count),
            "packets_per_message": round((loopback("packets") - packets_before) / count, 1),
        }

    async def stored(self) -> list[int]:
        """Return how many texts of ours each member has in its database."""
        return [row["count"] for row in await self._ask_all("stored")]

    async def _gather(self, wanted: int) -> tuple[list[float], float, int]:
        """Collect latencies in ms until all are there or nothing comes any more; when the last came; events missed."""
        latencies: list[float] = []
        last, missed = time.monotonic(), 0
        while len(latencies) < wanted and time.monotonic() < last + PATIENCE_S:
            await trio.sleep(0.3)
            for row in await self._ask_all("recorded"):
                latencies += row["latencies_ms"]
                missed += row["missed"]
                last = max(last, row["last"])
        return sorted(latencies), last, missed

    async def _cpu_s(self) -> float:
        return sum(float(row["cpu_s"]) for row in await self._ask_all("stats"))

    async def _ask_all(self, what: str) -> list[dict[str, Any]]:
        for member in self.members:
            await member.tell(what)
        return [await member.hear(what) for member in self.members]


def quantile(values: list[float], part: float) -> float | None:
    """Return the value below which `part` of the sorted values lie."""
    return round(values[min(len(values) - 1, int(part * len(values)))], 2) if values else None


def loopback(what: Literal["bytes", "packets"]) -> int:
    """Return how much has passed the loopback interface; 0 on systems that do not say it this way."""
    counters = Path("/proc/net/dev")
    lines = counters.read_text().splitlines() if counters.exists() else []
    column = 8 if what == "bytes" else 9
    return next((int(line.split(":")[1].split()[column]) for line in lines if line.strip().startswith("lo:")), 0)


@asynccontextmanager
async def open_talk() -> AsyncIterator[Pool]:
    """Open a pool and warm its tree up."""
    with tempfile.TemporaryDirectory() as name:
        async with open_pool(Path(name), MEMBERS, links=LINKS) as members:
            await trio.sleep(SETTLE_S)
            pool = Pool(members)
            await pool.publish(size=200, rate=20, secs=1)
            yield pool


async def measure(rates: list[float], secs: float, burst: int, size: int) -> None:
    """Print one line a rate, and one for the burst."""
    async with open_talk() as pool:
        for rate in rates:
            figures = await pool.publish(size=size, rate=rate, secs=secs)
            print(json.dumps({"bench": "messages", "offered_per_s": rate, **figures}), flush=True)
        if burst:
            figures = await pool.publish(size=size, count=burst)
            stored = await pool.stored()
            lost = {"stored_everywhere": min(stored) == pool.published, "fewest_stored": min(stored)}
            print(json.dumps({"bench": "messages", "burst": burst, **figures, **lost}), flush=True)


def enter_namespace() -> None:
    """Run again in a network namespace with nothing but the loopback interface, where that is allowed."""
    if os.environ.get(_ALONE) or not shutil.which("unshare") or not shutil.which("ip") or os.geteuid() != 0:
        return
    os.environ[_ALONE] = "1"
    again = [sys.executable, "-m", "benchmarks.messages", *sys.argv[1:]]
    os.execvp("unshare", ["unshare", "--net", *again])


def main() -> None:
    """Read the arguments, print the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="40,100,200,400")
    parser.add_argument("--secs", type=float, default=5)
    parser.add_argument("--burst", type=int, default=5000)
    parser.add_argument("--size", type=int, default=200)
    args = parser.parse_args()
    enter_namespace()
    if os.environ.get(_ALONE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    rates = [float(rate) for rate in args.rates.split(",") if rate]
    trio.run(measure, rates, args.secs, args.burst, args.size)


if __name__ == "__main__":
    main()
