"""One member of a soak's pool, in a process of its own: takes commands on stdin, reports on stdout, a JSON a line.

It fetches whatever others offer. Nothing is kept here that grows, so that what grows is poolnet's.
"""

import gc
import json
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import blake3
import trio

import poolnet
from benchmarks.member import commands

LOOPBACK = "127.0.0.1"
_POOL = "soak"
_LOOK_S = 1.0
_COUNT_S = 5.0
#: More messages than any soak has.
_ALL = 100_000_000
_UNDER_WAY = ("queued", "running", "paused")


def report(event: str, **fields: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **fields}), flush=True)


async def fetch_what_is_offered(pool: poolnet.PoolNet, out: Path) -> None:
    """Fetch everything that others offer, each to a place named for its id, until cancelled."""
    while True:
        for offer in lacking(pool, out):
            with suppress(poolnet.UnknownFile, poolnet.OutputExists):  # withdrawn, or finished, this moment
                await pool.files.start_download(offer.file_id, place(out, offer), kind=offer.kind)
        await trio.sleep(_LOOK_S)


def place(out: Path, offer: poolnet.OfferInfo) -> Path:
    """Return where a file goes."""
    return out / poolnet.encode_id(offer.file_id)


def lacking(pool: poolnet.PoolNet, out: Path) -> list[poolnet.OfferInfo]:
    """Return what others offer, is not here, and is not being fetched."""
    under_way = {info.path for info in pool.files.downloads() if info.state in _UNDER_WAY}
    return [offer for offer in unfinished(pool, out) if place(out, offer) not in under_way]


def unfinished(pool: poolnet.PoolNet, out: Path) -> list[poolnet.OfferInfo]:
    """Return what others offer and is not here."""
    offers = pool.files.offers()
    return [
        offer for offer in offers if offer.nodes and pool.node_id not in offer.nodes and not place(out, offer).exists()
    ]


def load_decoders() -> None:
    """Load now what the first picture that is offered would load, and what would look like growth."""
    with suppress(ImportError):
        from PIL import Image

        Image.init()


async def report_objects() -> None:
    """Report now and then how many blocks of memory Python's objects take, garbage not counted, until cancelled.

    That is sharper than what the system says: the C library's allocator keeps what is freed, at first more and more.
    """
    while True:
        gc.collect()
        report("objects", count=sys.getallocatedblocks())
        await trio.sleep(_COUNT_S)


async def report_trouble(pool: poolnet.PoolNet, task_status: trio.TaskStatus[None]) -> None:
    """Hear all events, as an application does, and report those of trouble."""
    async with pool.subscribe() as events:
        task_status.started()
        async for event in events:
            match event:
                case poolnet.ErrorReported(code=code, message=message):
                    report("trouble", what=f"{code}: {message}")
                case poolnet.SourceLost(path=path, reason=reason):
                    report("trouble", what=f"source lost: {path}: {reason}")
                case poolnet.ClockWrong(ahead_s=ahead_s):
                    report("trouble", what=f"the clock is said to be {ahead_s} s ahead")


async def perform(pool: poolnet.PoolNet, out: Path, ticket: int, command: dict[str, Any]) -> None:
    """Do one command, and report with its ticket that it is done."""
    answer: dict[str, Any] = {}
    match command.pop("do"):
        case "say":
            for text in command["texts"]:
                report("said", id=poolnet.encode_id(await pool.send(text)))
        case "take_back":
            msg_id = poolnet.MsgId(poolnet.decode_id_untrusted(command["id"]))
            with suppress(poolnet.UnknownMessage):  # taken back already
                await pool.retract_message(msg_id)
        case "offer":
            offer = getattr(
                pool.files, {"file": "offer", "folder": "offer_folder", "media": "offer_media"}[command["kind"]]
            )
            answer = {"file_id": poolnet.encode_id((await offer(Path(command["path"]))).file_id)}
        case "withdraw":
            with suppress(poolnet.UnknownFile):
                await pool.files.retract(poolnet.FileId(poolnet.decode_id_untrusted(command["file_id"])))
        case "state":
            answer = await state(pool, out)
        case "history":
            ids = [poolnet.encode_id(message.msg_id) for message in await pool.messages.latest(_ALL)]
            await trio.Path(command["path"]).write_text("\n".join(ids))
    report("done", ticket=ticket, **answer)


async def state(pool: poolnet.PoolNet, out: Path) -> dict[str, Any]:
    """Return what is compared between members until it is the same."""
    digest = blake3.blake3(b"".join(message.msg_id for message in await pool.messages.latest(_ALL)))
    downloads = {poolnet.encode_id(info.file_id): f"{info.state} {info.reason}" for info in pool.files.downloads()}
    return {
        "messages": await pool.messages.count(),
        "digest": digest.hexdigest(),
        "linked": sum(member.linked for member in pool.members()),
        "unfinished": {
            file_id: downloads.get(file_id, "not begun")
            for file_id in (poolnet.encode_id(offer.file_id) for offer in unfinished(pool, out))
        },
        "pool": attrs.asdict(pool.statistics()),
        "database": attrs.asdict(pool.messages.statistics()),
        "files": attrs.asdict(pool.files.statistics()),
    }


async def run(options: dict[str, Any]) -> None:
    """Join the pool (or make it, if there is no invite) and obey until stdin ends.

    Args:
        options: home, out, name, and either invite or server.
    """
    home, out = Path(options["home"]), Path(options["out"])
    async with poolnet.open_node(home, listen=(LOOPBACK, 0)) as node:
        target = _POOL
        if "server" in options and not node.pools():
            invite = await node.create_pool(_POOL, server=poolnet.parse_server_address(options["server"]))
            report("invite", invite=poolnet.format_invite_link(invite))
        elif not node.pools():
            target = options["invite"]
        async with node.join(target, name=options["name"]) as pool, trio.open_nursery() as nursery:
            await nursery.start(report_trouble, pool)
            nursery.start_soon(fetch_what_is_offered, pool, out)
            nursery.start_soon(report_objects)
            report("joined")
            async for command in commands():
                nursery.start_soon(perform, pool, out, command.pop("ticket"), command)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    load_decoders()
    trio.run(run, json.loads(sys.argv[1]))
