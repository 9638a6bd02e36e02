"""A file from one member to others at once: file to file, verified, over loopback or between network namespaces.

    python -m benchmarks.transfer [--size-mib 1024] [--receivers 1] [--quic] [--datagram 16370] [--apart] [--runs 3]

Each run measures raw TLS over TCP first, then the transfer in a new pool: from the first `get` to the last `complete`.
With --apart every member is on a host of its own (a network namespace), with an MTU of 1500; needs root.
"""

import argparse
import contextlib
import filecmp
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio

from benchmarks import raw_tls
from benchmarks.pool_of_processes import Host, MemberProcess, open_pool
from poolnet.limits import MAX_DATAGRAM_SIZE, MIB
from poolnet.testing.namespaces import open_network


def write_random(path: Path, size_mib: int) -> None:
    """Write a file that does not compress and has no two equal chunks."""
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))


def touch_memory(path: Path, size_mib: int) -> None:
    """Write a file and remove it again, as large as what is to be written now.

    A virtual machine gets its memory from the host at the first touch, and may lose it again a second after it was
    freed; both take longer than a fast transfer does.
    """
    piece = bytes(MIB)
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(piece)
    path.unlink()


@contextlib.contextmanager
def open_hosts(count: int) -> Iterator[list[Host]]:
    """Make hosts on one switch; they are gone after the block."""
    with open_network() as network:
        names = [f"host{number}" for number in range(count)]
        yield [Host(address=network.add_host(name), under=network.under(name)) for name in names]


async def pass_on(members: list[MemberProcess], source: Path) -> dict[str, Any]:
    """Have the first member give a file to all others at once; return the figures."""
    seeder, others = members[0], members[1:]
    await seeder.tell("offer", path=str(source))
    file_id = (await seeder.hear("offered"))["file_id"]
    for other in others:
        await other.hear("offer")
    before = await _stats(members)
    touch_memory(source.with_name("touched"), os.stat(source).st_size // MIB * len(others))
    start = trio.current_time()
    for number, other in enumerate(others):
        await other.tell("get", file_id=file_id, out=str(source.with_name(f"copy{number}.bin")))
    finished = [await other.hear("complete") for other in others]
    seconds = trio.current_time() - start
    after = await _stats(members)
    assert all(filecmp.cmp(row["path"], source, shallow=False) for row in finished), "a copy differs from its source"
    size = os.stat(source).st_size
    cpu = [late["cpu_s"] - early["cpu_s"] for early, late in zip(before, after, strict=True)]
    return {
        "seconds": round(seconds, 2),
        "mib_per_s": round(size / MIB / seconds, 1),
        "aggregate_mib_per_s": round(size / MIB * len(others) / seconds, 1),
        "seeder_files_out": round(after[0]["bytes_out"] / size, 3),
        "seeder_peak_rss_mib": round(after[0]["peak_rss_mib"], 1),
        "receivers_peak_rss_mib": round(max(row["peak_rss_mib"] for row in after[1:]), 1),
        "seeder_cpu_s_per_gib": round(cpu[0] * 1024 * MIB / size, 2),
        "cpu_s_per_delivered_gib": round(sum(cpu) * 1024 * MIB / size / len(others), 2),
        "carriers": sorted({carrier for member in members for carrier in member.linked["carriers"]}),
    }


async def _stats(members: list[MemberProcess]) -> list[dict[str, Any]]:
    for member in members:
        await member.tell("stats")
    return [await member.hear("stats") for member in members]


async def transfer(size_mib: int, receivers: int, *, is_apart: bool = False, **options: Any) -> dict[str, Any]:
    """Run one transfer in a new pool; return its figures.

    Args:
        is_apart: every member on a host of its own.
        options: what `poolnet.open_node` takes.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        source = Path(name) / "source.bin"
        write_random(source, size_mib)
        hosts = stack.enter_context(open_hosts(receivers + 1)) if is_apart else []
        async with open_pool(Path(name), receivers + 1, links=min(receivers, 2), hosts=hosts, **options) as members:
            await trio.sleep(1)  # what carries the chunks of a link is settled after the link is up
            for member in members:
                await member.tell("wait_links", count=1)
                member.linked = await member.hear("linked")
            return await pass_on(members, source)


def measure(size_mib: int, receivers: int, *, runs: int, is_apart: bool = False, **options: Any) -> dict[str, Any]:
    """Return the medians of several runs, each beside its raw limit."""
    rows = []
    for _ in range(runs):
        raw = raw_tls.measure()
        row = trio.run(_transfer_with, size_mib, receivers, is_apart, options)
        rows.append({**row, "raw_tls_mib_per_s": round(raw, 1), "ratio_to_raw": round(row["mib_per_s"] / raw, 3)})
    medians = {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0] if key != "carriers"}
    what = {"bench": "transfer", "size_mib": size_mib, "receivers": receivers, "apart": is_apart, **options}
    return {**what, "carriers": rows[0]["carriers"], **medians}


async def _transfer_with(size_mib: int, receivers: int, is_apart: bool, options: dict[str, Any]) -> dict[str, Any]:
    return await transfer(size_mib, receivers, is_apart=is_apart, **options)


def main() -> None:
    """Read the arguments, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--receivers", type=int, default=1)
    parser.add_argument("--quic", action="store_true", help="chunks over QUIC alone")
    parser.add_argument("--datagram", type=int, default=MAX_DATAGRAM_SIZE)
    parser.add_argument("--apart", action="store_true", help="every member on a host of its own")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    options = {"tcp": not args.quic, "max_datagram_size": args.datagram}
    print(json.dumps(measure(args.size_mib, args.receivers, runs=args.runs, is_apart=args.apart, **options)))


if __name__ == "__main__":
    main()
