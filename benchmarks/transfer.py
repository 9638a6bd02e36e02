"""A file from one member to others at once: file to file, verified, over loopback.

    python -m benchmarks.transfer [--size-mib 256] [--receivers 1] [--datagram 16370] [--runs 3]

Each run measures raw TLS over TCP first, then the transfer in a new pool: from the first `get` to the last `complete`.
"""

import argparse
import filecmp
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import trio

from benchmarks import raw_tls
from benchmarks.pool_of_processes import open_pool
from poolnet.limits import MAX_DATAGRAM_SIZE, MIB


def write_random(path: Path, size_mib: int) -> None:
    """Write a file that does not compress and has no two equal chunks."""
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))


async def transfer(size_mib: int, receivers: int, datagram: int) -> dict[str, Any]:
    """Run one transfer; return its figures."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        source = directory / "source.bin"
        write_random(source, size_mib)
        async with open_pool(directory, receivers + 1, max_datagram_size=datagram) as members:
            seeder, others = members[0], members[1:]
            await seeder.tell("offer", path=str(source))
            file_id = (await seeder.hear("offered"))["file_id"]
            for other in others:
                await other.hear("offer")
            start = trio.current_time()
            for number, other in enumerate(others):
                await other.tell("get", file_id=file_id, out=str(directory / f"copy{number}.bin"))
            paths = [Path((await other.hear("complete"))["path"]) for other in others]
            seconds = trio.current_time() - start
            for member in members:
                await member.tell("stats")
            stats = [await member.hear("stats") for member in members]
            assert all(filecmp.cmp(path, source, shallow=False) for path in paths), "a copy differs from its source"
    size = size_mib * MIB
    return {
        "seconds": round(seconds, 2),
        "mib_per_s": round(size_mib / seconds, 1),
        "aggregate_mib_per_s": round(size_mib * receivers / seconds, 1),
        "seeder_files_out": round(stats[0]["bytes_out"] / size, 3),
        "seeder_peak_rss_mib": round(stats[0]["peak_rss_mib"], 1),
        "receivers_peak_rss_mib": round(max(row["peak_rss_mib"] for row in stats[1:]), 1),
        "seeder_cpu_s": round(stats[0]["cpu_s"], 2),
        "receivers_cpu_s": round(sum(row["cpu_s"] for row in stats[1:]), 2),
    }


def measure(size_mib: int, receivers: int, datagram: int, runs: int) -> dict[str, Any]:
    """Return the medians of several runs, each beside its raw limit."""
    rows = []
    for _ in range(runs):
        raw = raw_tls.measure()
        row = trio.run(transfer, size_mib, receivers, datagram)
        rows.append({**row, "raw_tls_mib_per_s": round(raw, 1), "ratio_to_raw": round(row["mib_per_s"] / raw, 3)})
    medians = {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
    return {"bench": "transfer", "size_mib": size_mib, "receivers": receivers, "datagram": datagram, **medians}


def main() -> None:
    """Read the arguments, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--receivers", type=int, default=1)
    parser.add_argument("--datagram", type=int, default=MAX_DATAGRAM_SIZE)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print(json.dumps(measure(args.size_mib, args.receivers, args.datagram, args.runs)))


if __name__ == "__main__":
    main()
