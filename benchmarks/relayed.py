"""A file that reaches its receiver only through others: thirty members, nobody who wants it can link to who has it.

    python -m benchmarks.relayed [--members 30] [--size-mib 16] [--rate 50]

Every member is on a host of its own (a network namespace) with a limited uplink (``tc tbf``), and can reach only its
ring neighbours (``nft`` drops the rest); needs root. The requester is three links or more away from the one who offers
the file. Then a neighbour of the requester wants the same file: it comes from caches nearby.
"""

import argparse
import filecmp
import json
import tempfile
from pathlib import Path
from typing import Any

import trio

from benchmarks.pool_of_processes import Host, MemberProcess, open_pool
from benchmarks.transfer import write_random
from poolnet.limits import MIB
from poolnet.testing.namespaces import Network, open_network

_WALL = """
table ip wall {{
    set friends {{ type ipv4_addr; elements = {{ {friends} }} }}
    chain in {{ type filter hook input priority 0; ip saddr != @friends drop; }}
    chain out {{ type filter hook output priority 0; ip daddr != @friends drop; }}
}}
"""
_HOPS = 3


def neighbours_of(members: list[MemberProcess], hosts: list[Host]) -> list[set[int]]:
    """Return, for each member, the numbers of those that it is linked to."""
    number_of = {host.address: number for number, host in enumerate(hosts)}
    links = [{number_of[address.rpartition(":")[0]] for address in member.linked["addresses"]} for member in members]
    return [
        {other for other in range(len(links)) if other in mine or number in links[other]}
        for number, mine in enumerate(links)
    ]


def distances(neighbours: list[set[int]], start: int) -> list[int]:
    """Return how many links each member is away from `start`."""
    found = {start: 0}
    for node in (order := [start]):
        for other in sorted(neighbours[node] - found.keys()):
            found[other] = found[node] + 1
            order.append(other)
    return [found[number] for number in range(len(neighbours))]


def wall_in(network: Network, hosts: list[Host], neighbours: list[set[int]]) -> None:
    """Let every member reach its neighbours, and the one that runs the server, and nobody else."""
    for number, host in enumerate(hosts):
        friends = {number, 0, *neighbours[number]} if number else set(range(len(hosts)))
        network.run(
            host_name(number),
            "nft",
            "-f",
            "-",
            stdin=_WALL.format(friends=", ".join(hosts[friend].address for friend in sorted(friends))),
        )
        assert host.address


def host_name(number: int) -> str:
    """Return what a member's host is called."""
    return f"host{number}"


async def fetch(member: MemberProcess, file_id: str, source: Path, number: int) -> float:
    """Have a member fetch the file; return the seconds."""
    start = trio.current_time()
    copy = source.with_name(f"copy{number}.bin")
    await member.tell("get", file_id=file_id, out=str(copy))
    await member.hear("complete")
    assert filecmp.cmp(copy, source, shallow=False), "a copy differs from its source"
    return trio.current_time() - start


async def sent_bytes(member: MemberProcess) -> int:
    """Return how many bytes of files a member has sent."""
    await member.tell("stats")
    sent: int = (await member.hear("stats"))["bytes_out"]
    return sent


async def measure(count: int, size_mib: int, rate_mbit: float) -> dict[str, Any]:
    """Run both transfers in a new pool; return the figures."""
    with tempfile.TemporaryDirectory() as name, open_network() as network:
        source = Path(name) / "source.bin"
        write_random(source, size_mib)
        hosts = [
            Host(address=network.add_host(host_name(number)), under=network.under(host_name(number)))
            for number in range(count)
        ]
        async with open_pool(Path(name), count, links=3, hosts=hosts) as members:
            await trio.sleep(15)  # the rings settle: no more links than the rings ask for
            for member in members:
                await member.tell("wait_links", count=1)
                member.linked = await member.hear("linked")
            neighbours = neighbours_of(members, hosts)
            origin, requester, second = choose(neighbours)
            wall_in(network, hosts, neighbours)
            for number in range(count):
                network.limit_uplink(host_name(number), f"{rate_mbit:g}mbit")
            await members[origin].tell("offer", path=str(source))
            file_id = (await members[origin].hear("offered"))["file_id"]
            for number in (requester, second):
                await members[number].hear("offer")
            first_s = await fetch(members[requester], file_id, source, 1)
            before = await sent_bytes(members[origin])
            second_s = await fetch(members[second], file_id, source, 2)
            more = await sent_bytes(members[origin]) - before
    one_upload_s = size_mib * MIB * 8 / (rate_mbit * 1e6)
    return {
        "bench": "relayed",
        "members": count,
        "size_mib": size_mib,
        "rate_mbit": rate_mbit,
        "share_of_slowest_link": round(one_upload_s / first_s, 2),
        "origin_files_out": round(before / size_mib / MIB, 2),
        "second_share_of_slowest_link": round(one_upload_s / second_s, 2),
        "second_origin_files_out": round(more / size_mib / MIB, 2),
    }


def choose(neighbours: list[set[int]]) -> tuple[int, int, int]:
    """Return who offers, who wants, and a neighbour of the latter that is not nearer: none of them runs the server."""
    numbers = range(1, len(neighbours))
    for origin in numbers:
        away = distances(neighbours, origin)
        far = [number for number in numbers if away[number] >= _HOPS and away[0] + 1 >= _HOPS]
        for requester in far:
            for second in neighbours[requester]:
                if second in far:
                    return origin, requester, second
    raise RuntimeError("nobody is three links away from anybody in these rings; run it again")


def main() -> None:
    """Read the arguments, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=30)
    parser.add_argument("--size-mib", type=int, default=16)
    parser.add_argument("--rate", type=float, default=50, help="megabits a second")
    args = parser.parse_args()
    print(json.dumps(trio.run(measure, args.members, args.size_mib, args.rate)))


if __name__ == "__main__":
    main()
