"""A member under a flood from other members, who send what has to be verified as fast as their links take it.

    python -m benchmarks.bogus_signatures [--seconds 5] [--only KIND]

Over loopback, every member in a process of its own. An honest one speaks twenty times a second, first while it is
quiet, then during the flood; hostile ones come back at once whenever they are let go. Told are the frames that reach
the victim, the signatures that it looks at, what that costs it, and how long the honest one's texts take to it.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain, cycle
from pathlib import Path
from subprocess import PIPE
from typing import Any

import attrs
import trio

import poolnet
from benchmarks.member import Recorder, commands, peak_rss_kib, report, report_messages, usage
from benchmarks.pool_of_processes import MemberProcess, open_member
from poolnet.errors import LinkClosed
from poolnet.identity import authorship, statements, user
from poolnet.identity.authorship import sign_message
from poolnet.identity.invite_link import parse_server_address_untrusted
from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import Role, encode_statement, make_invite
from poolnet.pool.member_link import MemberLink
from poolnet.pool_net import PoolNet
from poolnet.wire.bodies import AppBody, TextBody
from poolnet.wire.framing import Frame
from poolnet.wire.message import Message, encode_message
from poolnet.wire.pool_frames import Gossip, Messages, Statements

LOCAL = ("127.0.0.1", 0)
#: Texts of the honest member a second, and before it is looked at how long they take.
_RATE = 20
_SETTLE_S = 0.5
_QUIET_S = 2.0
#: What is made before the flood: more than an author may say at once, and as many to go on with.
_MANY = 8000
_JOIN_S = 60.0
_BAD_SIGNATURE = bytes(64)


@attrs.frozen
class Flood:
    """What `devices` hostile members send, each the same kind of frames."""

    kind: str
    devices: int


FLOODS = (
    Flood("forged", 1),
    Flood("forged", 4),
    Flood("statements", 4),
    Flood("answers", 4),
    Flood("valid", 4),
    Flood("large", 4),
    Flood("again", 4),
)


# --- the hostile --------------------------------------------------------------------------------------------------


def _said(key: DeviceKey, pool: PoolNet, number: int, size: int = 0) -> Message:
    hlc = pool._time.clock.tick(pool.unix_ms)
    body = AppBody(name="flood", data=bytes(size)) if size else TextBody(text=f"flood {number}")
    return sign_message(key, pool_id=pool.pool_id, hlc=hlc, body=body)


def _push(message: Message) -> Frame:
    return Gossip(hops=1, message=encode_message(message))


def _false_statements(key: DeviceKey, pool: PoolNet, start: int) -> Frame:
    def false(number: int) -> bytes:
        invite_key = DeviceKey.from_seed(number.to_bytes(32, "big")).public_key
        hlc = pool._time.clock.tick(pool.unix_ms)
        invite = make_invite(
            key, pool_id=pool.pool_id, invite_key=invite_key, role=Role.MEMBER, expires_unix_ms=2**41, hlc=hlc
        )
        return encode_statement(attrs.evolve(invite, signatures=(_BAD_SIGNATURE,)))

    return Statements(statements=tuple(false(number) for number in range(start, start + 50)))


def make_frames(kind: str, key: DeviceKey, pool: PoolNet) -> Iterator[Frame]:
    """Return frames without end: some that are new each, and then these again and again."""
    match kind:
        case "forged":  # in its own name: whoever names others is only blamed sooner
            false = [attrs.evolve(_said(key, pool, number), signature=_BAD_SIGNATURE) for number in range(_MANY // 4)]
            return cycle(list(map(_push, false)))
        case "statements":
            return cycle([_false_statements(key, pool, 50 * number) for number in range(40)])
        case "answers":  # true, and nobody asked
            own = [encode_message(_said(key, pool, number)) for number in range(1000)]
            parts = [tuple(own[start : start + 50]) for start in range(0, len(own), 50)]
            return cycle([Messages(number=0, is_last=False, messages=part) for part in parts])
        case "valid":
            return cycle([_push(_said(key, pool, number)) for number in range(_MANY)])
        case "large":
            return cycle([_push(_said(key, pool, number, size=16_000)) for number in range(_MANY // 8)])
        case "again":
            first = _push(_said(key, pool, 0))
            return chain([first], cycle([first]))
        case _:
            raise ValueError(f"there is no flood {kind!r}")


async def be_hostile(home: str, invite: str, victim: str, kind: str) -> None:
    """Join, make frames, wait for a line, push them over every link to the victim until stdin ends."""
    os.nice(19)  # elsewhere it would not take the processor away from the victim and the honest
    peer = poolnet.DeviceId(poolnet.decode_id_untrusted(victim))
    async with (
        poolnet.open_node(Path(home), listen=LOCAL) as node,
        node.join(invite, name="hostile") as pool,
        trio.open_nursery() as nursery,
    ):
        links = pool._links
        links._mesh._backoff_s = lambda _failures: 0.0  # type: ignore[method-assign]  # an honest one waits
        frames = make_frames(kind, node._own.key, pool)
        with trio.fail_after(_JOIN_S):
            while peer not in links.links:  # noqa: ASYNC110  # links have no event
                await trio.sleep(0.02)
        report("ready")

        async def flood() -> None:
            while True:
                await trio.sleep(0.005)
                with suppress(LinkClosed):
                    while (link := links.links.get(peer)) is not None:
                        await link.send_frame(next(frames))

        async for _ in commands():
            nursery.start_soon(flood)
        nursery.cancel_scope.cancel()


# --- the victim ---------------------------------------------------------------------------------------------------


def count_calls(counts: Counter[str]) -> None:
    """Count from now on the signatures that this process looks at, and the frames that members send it."""
    verify, handle = authorship.verify_signature, MemberLink._handle

    def counted_verify(*args: Any) -> bool:
        counts["verified"] += 1
        return verify(*args)

    async def counted_handle(link: MemberLink, frame: Any) -> None:
        counts["frames"] += 1
        await handle(link, frame)

    for module in (authorship, statements, user):
        module.verify_signature = counted_verify  # type: ignore[attr-defined]
    MemberLink._handle = counted_handle  # type: ignore[method-assign]


async def be_victim(home: str, server: str) -> None:
    """Make the pool, and report for each command what happened since the last."""
    logging.getLogger("poolnet").setLevel(logging.ERROR)  # each link that it closes is a warning
    counts: Counter[str] = Counter()
    count_calls(counts)
    address = parse_server_address_untrusted(server)
    async with poolnet.open_node(Path(home), listen=LOCAL) as node:
        invite = await node.create_pool("garden", server=address)
        async with node.join("garden", name="victim") as pool, trio.open_nursery() as nursery:
            recorder = Recorder()
            await nursery.start(report_messages, pool, recorder)
            device = poolnet.encode_id(node.device_id)
            report("invite", invite=poolnet.format_invite_link(invite), device=device)
            async for _ in commands():
                row = {**counts, **usage(), "shunned": pool.statistics().conduct.shunned}
                row |= {"rss_mib": rss_kib() / 1024, "deferred": pool.statistics().messages.deferred}
                report("counted", latencies_ms=recorder.latencies_ms, **row)
                recorder.latencies_ms = []
            nursery.cancel_scope.cancel()


def rss_kib() -> int:
    """Return the memory of this program now, as far as the system tells; else the most that it had."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_rss_kib()
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))


# --- both ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_process(*arguments: str) -> AsyncIterator[MemberProcess]:
    """Start this module in another role; it ends with the block."""
    command = [sys.executable, "-m", "benchmarks.bogus_signatures", *arguments]
    process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE)
    try:
        yield MemberProcess(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def speak(honest: MemberProcess, victim: MemberProcess, seconds: float, first: int) -> dict[str, Any]:
    """Let the honest one speak for so long; return what the victim counted, and at what."""
    count = int(seconds * _RATE)
    await honest.tell("publish", rate=_RATE, count=count, size=100, first=first)
    await trio.sleep(seconds + _SETTLE_S)
    await victim.tell("count")
    return await victim.hear("counted")


async def measure(flood: Flood, seconds: float) -> dict[str, Any]:
    """Flood a member of a new pool; return the figures."""
    with tempfile.TemporaryDirectory() as name:
        async with AsyncExitStack() as stack:
            enter: Callable[..., Any] = stack.enter_async_context
            server = await enter(poolnet.open_sync_server(data_dir=Path(name) / "server", listen=LOCAL))
            victim = await enter(open_process("--victim", str(Path(name) / "victim"), str(server.address)))
            row = await victim.hear("invite")
            honest = await enter(open_member(Path(name) / "honest", row["invite"], "honest"))
            hostile = []
            for number in range(flood.devices):
                arguments = (str(Path(name) / f"hostile{number}"), row["invite"], row["device"], flood.kind)
                hostile.append(await enter(open_process("--hostile", *arguments)))
            for process in hostile:
                await process.hear("ready")
            await honest.tell("wait_links", count=1)
            await honest.hear("linked")
            await trio.sleep(1)
            await victim.tell("count")
            start = await victim.hear("counted")
            quiet = await speak(honest, victim, _QUIET_S, 0)
            for process in hostile:
                await process.tell("go")
            flooded = await speak(honest, victim, seconds, 10_000)
    return {
        "bench": "bogus_signatures",
        "flood": flood.kind,
        "devices": flood.devices,
        **_figures(quiet, flooded, quiet["at"] - start["at"], start),
        "shunned": flooded["shunned"],
        "texts_missing": int(seconds * _RATE) - len(flooded["latencies_ms"]),
    }


def _figures(quiet: dict[str, Any], flooded: dict[str, Any], quiet_s: float, start: dict[str, Any]) -> dict[str, Any]:
    flooded_s = flooded["at"] - quiet["at"]
    before, during = sorted(quiet["latencies_ms"]), sorted(flooded["latencies_ms"])
    return {
        "frames_per_s": round((flooded["frames"] - quiet["frames"]) / flooded_s),
        "verified_per_s": round((flooded["verified"] - quiet["verified"]) / flooded_s, 1),
        "deferred_per_s": round((flooded["deferred"] - quiet["deferred"]) / flooded_s),
        "cpu_share_quiet": round((quiet["cpu_s"] - start["cpu_s"]) / quiet_s, 2),
        "cpu_share": round((flooded["cpu_s"] - quiet["cpu_s"]) / flooded_s, 2),
        "rss_mib_quiet": round(quiet["rss_mib"], 1),
        "rss_mib": round(flooded["rss_mib"], 1),
        "median_ms_quiet": round(statistics.median(before), 1),
        "median_ms": round(statistics.median(during), 1) if during else None,
        "max_ms_quiet": round(before[-1], 1),
        "max_ms": round(during[-1], 1) if during else None,
    }


def main() -> None:
    """Read the arguments, print a JSON line for each flood."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", choices=sorted({flood.kind for flood in FLOODS}))
    parser.add_argument("--victim", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--hostile", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.victim is not None:
        trio.run(be_victim, *args.victim)
    elif args.hostile is not None:
        trio.run(be_hostile, *args.hostile)
    else:
        for flood in FLOODS:
            if args.only in (None, flood.kind):
                print(json.dumps(trio.run(measure, flood, args.seconds)), flush=True)


if __name__ == "__main__":
    main()
