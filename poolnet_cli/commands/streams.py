"""``stream`` and ``watch``: bytes that are read while they are still being written."""

import trio

from poolnet import FileId, UnknownFile, WireError, decode_id_untrusted, encode_id
from poolnet_cli.command import Call
from poolnet_cli.commands.finding import find_stream, wait_found
from poolnet_cli.patience import told_if_slow
from poolnet_cli.session import PoolUse
from poolnet_cli.units import format_size


async def stream(call: Call) -> None:
    """Publish what goes in as a stream, to its end. Params: pool, name.

    Ended by anything else than the end of its input, the stream is broken off, and those who watch are told. Where the
    pool is joined already, that process goes on giving the whole as a file. Otherwise this stays and does so.
    """
    info = call.session.node.find_pool(call.params["pool"])
    async with call.session.use_pool(info) as use:
        size = 0
        async with use.net.files.open_stream(call.params["name"]) as writer:
            what = {"file_id": encode_id(writer.stream_id), "name": writer.name}
            await call.reporter.record({"event": "streaming", **what})
            async for data in call.input.data:
                await writer.send(data)
                size += len(data)
        await call.reporter.record({"event": "stream_ended", **what, "bytes": size, "skipped": 0})
        if not use.is_shared:
            await call.reporter.note(
                f"the stream of {format_size(size)} has ended and is a file now, offered for as long as this runs; "
                "Ctrl-C ends it, and joining resumes it"
            )
            await trio.sleep_forever()


async def watch(call: Call) -> None:
    """Give out the bytes of a stream until it ends. Params: pool, stream (its name or id), from_start, timeout_s.

    Raises:
        UnknownFile: there is no such stream. Unreachable: nor was anybody there in time who could tell.
        PoolnetError: its author broke it off.
    """
    info = call.session.node.find_pool(call.params["pool"])
    give_up_at = trio.current_time() + call.params["timeout_s"]
    async with call.session.use_pool(info) as use:
        async with told_if_slow(call.reporter, "waiting until another member is there"):
            stream_id, name = await _find(use, call.params["stream"], give_up_at)
        what = {"file_id": encode_id(stream_id), "name": name}
        size = skipped = 0
        async with use.net.files.watch(stream_id, from_start=call.params["from_start"]) as reader:
            await call.reporter.record({"event": "watching", **what})
            async for data in reader:
                if reader.skipped_bytes > skipped:
                    lost = format_size(reader.skipped_bytes - skipped)
                    await call.reporter.note(f"{lost} were skipped: they did not come in time")
                    skipped = reader.skipped_bytes
                await call.reporter.data(data)
                size += len(data)
        await call.reporter.record({"event": "stream_ended", **what, "bytes": size, "skipped": skipped})


async def _find(use: PoolUse, text: str, give_up_at: float) -> tuple[FileId, str]:
    """Return the stream that is meant. One that has ended is listed as a file, and is found by its whole id only."""
    try:
        return await wait_found(use, lambda: find_stream(use.net, text), give_up_at)
    except UnknownFile:
        try:
            return FileId(decode_id_untrusted(text.lower())), text
        except WireError:
            pass
        raise
