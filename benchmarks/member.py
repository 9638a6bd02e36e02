"""One member of a benchmark's pool, in a process of its own: takes commands on stdin, reports on stdout, a JSON a line.

Times are of the monotonic clock, which all processes of one machine share.
"""

import json
import resource
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio

import poolnet

LOOPBACK = ("127.0.0.1", 0)


def report(event: str, **fields: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, "at": time.monotonic(), **fields}), flush=True)


async def commands() -> AsyncIterator[dict[str, Any]]:
    """Yield the commands from stdin until it ends."""
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield json.loads(line)


async def report_messages(pool: poolnet.PoolNet, task_status: trio.TaskStatus[None]) -> None:
    """Report every text and every offer as it arrives."""
    async with pool.subscribe() as events:
        task_status.started()
        async for event in events:
            if isinstance(event, poolnet.MessageReceived):
                report("message", text=event.text)
            elif isinstance(event, poolnet.FileOffered):
                report("offer", file_id=poolnet.encode_id(event.file_id))


def usage() -> dict[str, float]:
    """Return this process's CPU seconds and peak memory."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": used.ru_utime + used.ru_stime, "peak_rss_mib": peak_rss_kib() / 1024}


def peak_rss_kib() -> int:
    """Return the most memory that this program has had; on Linux not counting what it was before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # bytes on macOS


async def perform(pool: poolnet.PoolNet, command: dict[str, Any]) -> None:
    """Do one command."""
    match command["do"]:
        case "wait_links":
            while sum(member.linked for member in pool.members()) < command["count"]:  # noqa: ASYNC110
                await trio.sleep(0.02)  # links have no event of their own
            report("linked", sizes=[member.datagram_size for member in pool.members() if member.linked])
        case "offer":
            offer = await pool.files.offer(Path(command["path"]))
            report("offered", file_id=poolnet.encode_id(offer.file_id))
        case "get":
            file_id = poolnet.FileId(poolnet.decode_id_untrusted(command["file_id"]))
            path = await pool.files.download(file_id, Path(command["out"]))
            report("complete", path=str(path))
        case "send":
            await pool.send(command["text"])
        case "stats":
            files = pool.files.statistics().exchange
            report("stats", bytes_out=files.bytes_out, bytes_in=files.bytes_in, **usage())


async def run(home: Path, target: str, name: str, max_datagram_size: int) -> None:
    """Join `target` (or make a pool, if it says "create") and obey until stdin ends."""
    async with poolnet.open_node(home, listen=LOOPBACK, max_datagram_size=max_datagram_size) as node:
        if target == "create":
            invite = await node.create_pool("bench")
            report("invite", invite=poolnet.format_invite_link(invite))
            target = "bench"
        async with node.join(target, name=name) as pool, trio.open_nursery() as nursery:
            await nursery.start(report_messages, pool)
            report("joined")
            async for command in commands():
                nursery.start_soon(perform, pool, command)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(run, Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
