"""A sync server under a flood of handshakes that nobody finishes, while a device joins a pool through it.

python -m benchmarks.half_open [--handshakes 10000] [--rate 2000]

Three floods, each over real sockets and from a process of its own: forged senders, who never see an answer; one network
that returns the tokens of Retry; and many networks that do. Linux only, which has 16 million addresses on loopback.
"""

import argparse
import contextlib
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import trio

import poolnet
from benchmarks.member import peak_rss_kib
from poolnet.identity.invite_link import parse_server_address_untrusted
from poolnet.testing.first_flights import FirstFlights

LOCAL = ("127.0.0.1", 0)
#: Sockets of those who wait for an answer.
_OPEN = 200
_WAIT_S = 60

FLOODS: dict[str, tuple[Callable[[random.Random], str], bool]] = {
    "forged": (lambda rng: f"127.{rng.randrange(1, 255)}.{rng.randrange(256)}.{rng.randrange(1, 255)}", False),
    "one_network": (lambda _rng: "127.77.0.1", True),
    "many_networks": (lambda rng: f"127.{rng.randrange(1, 255)}.{rng.randrange(256)}.{rng.randrange(1, 255)}", True),
}


async def serve(directory: str) -> None:
    """Be the server: print its invite address, then counts for each line of input."""
    async with poolnet.open_sync_server(data_dir=Path(directory), listen=LOCAL) as server:
        print(json.dumps({"address": str(server.address)}), flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            endpoint = server.statistics().endpoint
            row = {"bytes_in": endpoint.udp.bytes_in, "bytes_out": endpoint.udp.bytes_out}
            row |= {"retries": endpoint.retries_sent, "displaced": endpoint.displaced, "peak_kib": peak_rss_kib()}
            print(json.dumps(row), flush=True)


def flood(address: str, kind: str, handshakes: int, rate: float) -> None:
    """Be the flood: begin handshakes, evenly, each from a port of its own."""
    server = parse_server_address_untrusted(address)
    draw, answers = FLOODS[kind]
    rng, flights = random.Random(1), FirstFlights(server.key)
    waiting: deque[socket.socket] = deque()
    target, started = (server.host, server.port), time.monotonic()
    for number in range(handshakes):
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.setblocking(False)
        sender.bind((draw(rng), 0))
        sender.sendto(flights.make(rng.randbytes(8)), target)
        if answers:
            waiting.append(sender)
        else:
            sender.close()
        if len(waiting) > _OPEN:
            _return_token(waiting.popleft(), flights, target)


def _return_token(sender: socket.socket, flights: FirstFlights, target: tuple[str, int]) -> None:
    """Answer a Retry, if that is what came, and go."""
    with sender, contextlib.suppress(OSError):
        if (answer := flights.again(sender.recv(65536))) is not None:
            sender.sendto(answer, target)


@contextlib.asynccontextmanager
async def open_server(directory: Path) -> AsyncIterator[tuple[poolnet.ServerAddress, Callable[[], dict[str, Any]]]]:
    """Start the server's process; yield its address, and what asks for its counts."""
    command = [sys.executable, "-m", "benchmarks.half_open", "--serve", str(directory)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: ASYNC220  # takes a moment
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        address = parse_server_address_untrusted(json.loads(await trio.to_thread.run_sync(stdout.readline))["address"])

        def counts() -> dict[str, Any]:
            print(file=stdin, flush=True)
            return dict(json.loads(stdout.readline()))

        try:
            yield address, counts
        finally:
            process.kill()


async def join(directory: Path, invite: poolnet.InviteLink, name: str) -> float:
    """Join as a new device; return the seconds until it is linked with another member."""
    async with poolnet.open_node(directory / name, listen=LOCAL) as node:
        started = time.monotonic()
        async with node.join(invite, name=name) as pool:
            with trio.fail_after(_WAIT_S):
                while not any(member.linked for member in pool.members()):  # noqa: ASYNC110  # links have no event
                    await trio.sleep(0.005)
        return time.monotonic() - started


async def measure(kind: str, handshakes: int, rate: float) -> dict[str, Any]:
    """Flood a new server; return what it cost, and how long a device took to join before and meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with (
            open_server(directory / "server") as (address, counts),
            poolnet.open_node(directory / "ada", listen=LOCAL) as ada,
        ):
            invite = await ada.create_pool("garden", server=address)
            async with ada.join("garden", name="ada"):
                quiet_s = await join(directory, invite, "bob")
                before = counts()
                arguments = ["--flood", str(address), kind, str(handshakes), str(rate)]
                command = [sys.executable, "-m", "benchmarks.half_open", *arguments]
                with subprocess.Popen(command) as process:  # noqa: ASYNC220  # takes a moment
                    await trio.sleep(0.3 * handshakes / rate)
                    flooded_s = await join(directory, invite, "cyd")
                    was_meanwhile = process.poll() is None
                    await trio.to_thread.run_sync(process.wait)
                await trio.sleep(1)
                after = counts()
    received, sent = (after[key] - before[key] for key in ("bytes_in", "bytes_out"))
    return {
        "bench": "half_open",
        "flood": kind,
        "handshakes": handshakes,
        "rate": rate,
        "join_quiet_ms": round(quiet_s * 1000),
        "join_flooded_ms": round(flooded_s * 1000),
        "join_was_meanwhile": was_meanwhile,
        "memory_mib": round((after["peak_kib"] - before["peak_kib"]) / 1024, 1),
        "received_mib": round(received / 2**20, 1),
        "sent_to_received": round(sent / received, 2),
        "retries": after["retries"],
        "displaced": after["displaced"],
    }


def main() -> None:
    """Read the arguments, print a JSON line for each flood."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handshakes", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--serve", metavar="DIRECTORY", help=argparse.SUPPRESS)
    parser.add_argument("--flood", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        trio.run(serve, args.serve)
    elif args.flood is not None:
        address, kind, handshakes, rate = args.flood
        flood(address, kind, int(handshakes), float(rate))
    else:
        for kind in FLOODS:
            print(json.dumps(trio.run(measure, kind, args.handshakes, args.rate)), flush=True)


if __name__ == "__main__":
    main()
