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

import attrs
import trio

import poolnet

#: What a text that carries its time begins with.
_STAMP = "bench"
#: More texts than any benchmark sends.
_MANY = 1_000_000


def report(event: str, **fields: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, "at": time.monotonic(), **fields}), flush=True)


async def commands() -> AsyncIterator[dict[str, Any]]:
    """Yield the commands from stdin until it ends."""
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield json.loads(line)


@attrs.define
class Recorder:
    """Keeps how long texts that carry their time took to arrive, instead of reporting each."""

    latencies_ms: list[float] = attrs.Factory(list)
    missed: int = 0
    last: float = 0.0

    @staticmethod
    def stamped(number: int, size: int) -> str:
        """Return a text of `size` characters with a number and the time."""
        return f"{_STAMP} {time.monotonic_ns()} {number} ".ljust(size, "x")

    def take(self, text: str) -> None:
        """Take note of such a text."""
        self.last = time.monotonic()
        self.latencies_ms.append((time.monotonic_ns() - int(text.split(" ", 2)[1])) / 1e6)

    def report(self) -> None:
        """Report what was recorded since the last report."""
        report("recorded", latencies_ms=self.latencies_ms, missed=self.missed, last=self.last)
        self.latencies_ms, self.missed = [], 0


async def report_messages(pool: poolnet.PoolNet, recorder: Recorder, task_status: trio.TaskStatus[None]) -> None:
    """Report every text and every offer as it arrives."""
    async with pool.subscribe() as events:
        task_status.started()
        async for event in events:
            match event:
                case poolnet.MessageReceived(node=pool.node_id, text=text) if text.startswith(_STAMP):
                    pass  # our own
                case poolnet.MessageReceived(text=text) if text.startswith(_STAMP):
                    recorder.take(text)
                case poolnet.MessageReceived(text=text):
                    report("message", text=text)
                case poolnet.FileOffered(file_id=file_id):
                    report("offer", file_id=poolnet.encode_id(file_id))
                case poolnet.EventsDropped(count=count):
                    recorder.missed += count


async def publish(pool: poolnet.PoolNet, *, rate: float, count: int, size: int, first: int) -> None:
    """Send `count` stamped texts: each when it is due, or (rate 0) one after another as fast as they are taken."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(first, first + count):
            if rate:
                await trio.sleep_until(start + (number - first) / rate)
                nursery.start_soon(pool.send, Recorder.stamped(number, size))
            else:
                await pool.send(Recorder.stamped(number, size))
    report("published", seconds=trio.current_time() - start)


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


async def perform(pool: poolnet.PoolNet, recorder: Recorder, command: dict[str, Any]) -> None:
    """Do one command."""
    match command.pop("do"):
        case "wait_links":
            while sum(member.linked for member in pool.members()) < command["count"]:  # noqa: ASYNC110
                await trio.sleep(0.02)  # links have no event of their own
            linked = [member for member in pool.members() if member.linked]
            report(
                "linked",
                sizes=[member.datagram_size for member in linked],
                carriers=[member.carrier for member in linked],
                addresses=[member.address for member in linked],
            )
        case "offer":
            offer = await pool.files.offer(Path(command["path"]))
            report("offered", file_id=poolnet.encode_id(offer.file_id))
        case "offer_folder":
            offer = await pool.files.offer_folder(Path(command["path"]))
            report("offered", file_id=poolnet.encode_id(offer.file_id))
        case "get":
            file_id = poolnet.FileId(poolnet.decode_id_untrusted(command["file_id"]))
            path = await pool.files.download(file_id, Path(command["out"]))
            report("complete", path=str(path))
        case "send":
            await pool.send(command["text"])
        case "publish":
            await publish(pool, **command)
        case "recorded":
            recorder.report()
        case "stored":
            report("stored", count=len(await pool.messages.latest(_MANY, kinds=("text",))))
        case "stats":
            files = pool.files.statistics().exchange
            report("stats", bytes_out=files.bytes_out, bytes_in=files.bytes_in, **usage())


async def run(options: dict[str, Any]) -> None:
    """Join a pool (or make one, if the target is "create") and obey until stdin ends.

    Args:
        options: home, target, name, host, and what else `open_node` takes.
    """
    home, target, name, host = (options.pop(key) for key in ("home", "target", "name", "host"))
    async with poolnet.open_node(Path(home), listen=(host, 0), **options) as node:
        if target == "create":
            invite = await node.create_pool("bench")
            report("invite", invite=poolnet.format_invite_link(invite))
            target = "bench"
        async with node.join(target, name=name) as pool, trio.open_nursery() as nursery:
            recorder = Recorder()
            await nursery.start(report_messages, pool, recorder)
            report("joined")
            async for command in commands():
                nursery.start_soon(perform, pool, recorder, command)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(run, json.loads(sys.argv[1]))
