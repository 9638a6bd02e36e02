"""A file from one member to eight others whose uplinks are slow: who needs how long, and what the seeder sends.

    python -m benchmarks.uplinks [--size-mib 64] [--rate 20] [--receivers 8] [--slow 0] [--runs 3]

Every member is on a host of its own (a network namespace) whose uplink is limited (``tc tbf``); needs root. The time is
told in uploads: how long it takes to send the file once over one uplink. --slow of the receivers have a tenth of the
others' uplink; the time is then that of the others.
"""

import argparse
import filecmp
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import trio

from benchmarks.pool_of_processes import Host, MemberProcess, open_pool
from benchmarks.transfer import write_random
from poolnet.limits import MIB
from poolnet.testing.namespaces import open_network

_TIME_LIMIT_S = 600


async def spread(members: list[MemberProcess], source: Path, size_mib: int, rate_mbit: float) -> dict[str, Any]:
    """Have the first member give a file to all others at once; return the figures."""
    seeder, others = members[0], members[1:]
    await seeder.tell("offer", path=str(source))
    file_id = (await seeder.hear("offered"))["file_id"]
    for other in others:
        await other.hear("offer")
    finished: list[float] = [0.0] * len(others)
    start = trio.current_time()

    async def fetch(number: int, other: MemberProcess) -> None:
        copy = source.with_name(f"copy{number}.bin")
        await other.tell("get", file_id=file_id, out=str(copy))
        await other.hear("complete")
        finished[number] = trio.current_time() - start
        assert filecmp.cmp(copy, source, shallow=False), "a copy differs from its source"

    with trio.fail_after(_TIME_LIMIT_S):
        async with trio.open_nursery() as nursery:
            for number, other in enumerate(others):
                nursery.start_soon(fetch, number, other)
    sent = []
    for member in members:
        await member.tell("stats")
        sent.append((await member.hear("stats"))["bytes_out"] / (size_mib * MIB))
    one_upload_s = size_mib * MIB * 8 / (rate_mbit * 1e6)
    return {
        "uploads": [round(seconds / one_upload_s, 2) for seconds in finished],
        "seeder_files_out": round(sent[0], 2),
        "busiest_other_files_out": round(max(sent[1:]), 2),
    }


async def run(size_mib: int, rate_mbit: float, receivers: int, slow: int) -> dict[str, Any]:
    """Run one transfer in a new pool; the slow receivers are the last ones."""
    with tempfile.TemporaryDirectory() as name, open_network() as network:
        source = Path(name) / "source.bin"
        write_random(source, size_mib)
        names = [f"host{number}" for number in range(receivers + 1)]
        hosts = [Host(address=network.add_host(host), under=network.under(host)) for host in names]
        async with open_pool(Path(name), receivers + 1, links=min(receivers, 2), hosts=hosts) as members:
            for number, host in enumerate(names):
                is_slow = number > receivers - slow
                network.limit_uplink(host, f"{rate_mbit / 10 if is_slow else rate_mbit:g}mbit")
            await trio.sleep(1)
            row = await spread(members, source, size_mib, rate_mbit)
    fast = row["uploads"][: receivers - slow]
    return {"last_of_the_fast": max(fast), "last_of_all": max(row["uploads"]), **row}


def main() -> None:
    """Read the arguments, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=64)
    parser.add_argument("--rate", type=float, default=20, help="megabits a second")
    parser.add_argument("--receivers", type=int, default=8)
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    rows = [trio.run(run, args.size_mib, args.rate, args.receivers, args.slow) for _ in range(args.runs)]
    medians = {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0] if key != "uploads"}
    print(json.dumps({"bench": "uplinks", **vars(args), **medians, "uploads": rows[-1]["uploads"]}))


if __name__ == "__main__":
    main()
