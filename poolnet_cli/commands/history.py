"""``history`` and ``keep``: what was said in a pool, and how much of it this device keeps."""

import os
from pathlib import Path

import trio

from poolnet import DeviceId, HistoryEntry, HistoryReader, MessageDB, MsgId, OutputExists, PoolNet, Retention
from poolnet.clock import Hlc, make_hlc
from poolnet_cli.command import Call, Params
from poolnet_cli.patience import told_if_slow
from poolnet_cli.records import history_record, session_record
from poolnet_cli.reporter import Record

Key = tuple[Hlc, MsgId]
#: The kind of message by which a node takes a name.
_PROFILE = "profile"


async def history(call: Call) -> None:
    """List entries, oldest first, or sessions, or export all. Params: pool, and those of `history_params`."""
    params = call.params
    info = call.session.node.find_pool(params["pool"])
    async with call.session.node.open_history(info) as reader:
        if params["export"] is not None:
            await _export(call, reader)
        elif params["sessions"]:
            for record in await session_records(reader, limit=params["limit"]):
                await call.reporter.record(record)
        else:
            await _list(call, reader, call.session.joined(info.pool_id))


async def _list(call: Call, reader: HistoryReader, net: PoolNet | None) -> None:
    """List the newest entries of those that are asked for, and say so if there are more."""
    limit: int = call.params["limit"]
    entries = await _entries(call, reader, net, limit + 1)
    if call.params["around"] is None and len(entries) > limit:
        entries = entries[1:]
        if any(call.params[name] is not None for name in ("since_ms", "session", "search")):
            await call.reporter.note(f"these are the newest {limit}; --limit shows more")
    for entry in entries:
        await call.reporter.record(history_record(entry))
    if not entries:
        is_choice = any(call.params[name] is not None for name in ("before", "since_ms", "until_ms", "search"))
        await call.reporter.note("nothing is found on this device" if is_choice else "nothing was said yet")


async def _entries(call: Call, reader: HistoryReader, net: PoolNet | None, count: int) -> list[HistoryEntry]:
    params = call.params
    before = None if params["before"] is None else await reader.find(params["before"])
    if params["around"] is not None:
        return await reader.around(await reader.find(params["around"]), (count - 1) // 2)
    if params["session"] is not None:
        return await reader.session(params["session"], limit=count)
    if params["search"] is not None:
        return await _search(reader, params, before, count)

    end = await _end(reader, params, before)
    start_ms = params["since_ms"]

    async def read() -> list[HistoryEntry]:
        if before is not None:
            return await reader.before(before, count)
        return await reader.between(start_ms, params["until_ms"], limit=count)

    entries = await read()
    if net is not None and await lacks_older(net.messages, entries, count):
        async with told_if_slow(call.reporter, "asking the others for what is older"):
            await net.messages.fetch_older(end, count)
            entries = await read()
    return entries


async def _end(reader: HistoryReader, params: Params, before: MsgId | None) -> Key | None:
    """Return the place that the entries asked for come before; None for the end of the history."""
    if before is not None:
        return (await reader.messages.get([before]))[0].key
    until_ms = params["until_ms"]
    return None if until_ms is None else (make_hlc(max(0, until_ms)), MsgId(b""))


async def _search(reader: HistoryReader, params: Params, before: MsgId | None, count: int) -> list[HistoryEntry]:
    return await reader.search(
        params["search"], since_ms=params["since_ms"], until_ms=params["until_ms"], limit=count, before=before
    )


async def lacks_older(db: MessageDB, entries: list[HistoryEntry], count: int) -> bool:
    """Return whether others may have what belongs before or among the `entries`, of which there should be `count`."""
    known_from = await db.known_from()
    if known_from is None:
        return True
    begins_at = entries[0].key if len(entries) >= count else (0, b"")
    return begins_at < known_from


async def session_records(reader: HistoryReader, *, limit: int) -> list[Record]:
    """Return the newest sessions as records, oldest first."""
    names = await _names(reader)
    sessions = await reader.sessions(limit=limit)
    return [session_record(session, len(sessions) - place, names) for place, session in enumerate(sessions)]


async def _names(reader: HistoryReader) -> dict[DeviceId, str]:
    """Return what everybody is called now."""
    profiles = await reader.between(limit=await reader.messages.count(), kinds=(_PROFILE,))
    return {profile.node: profile.name for profile in profiles}


async def _export(call: Call, reader: HistoryReader) -> None:
    path: str = call.params["export"]
    if await trio.to_thread.run_sync(os.path.lexists, path):
        raise OutputExists(f"{path} exists, and poolnet never overwrites; choose another name")
    async with told_if_slow(call.reporter, "writing the history"):
        count = await reader.export(Path(path), format=call.params["format"])
    await call.reporter.record({"event": "exported", "path": path, "messages": count})
    await call.reporter.note(f"{count} messages written")


async def keep(call: Call) -> None:
    """Show how much of the history is kept, or change it. Params: pool; for_s, messages, everything: changes if any."""
    params = call.params
    info = call.session.node.find_pool(params["pool"])
    net = call.session.joined(info.pool_id)
    is_change = params["everything"] or params["for_s"] is not None or params["messages"] is not None
    async with call.session.node.open_history(info) as reader:
        db, removed = reader.messages, 0
        if is_change:
            await db.set_retention(Retention(max_age_s=params["for_s"], max_count=params["messages"]))
        if is_change and net is not None:  # otherwise nobody was asked what time it is; the next join sees to it
            removed = await db.expire(net.unix_ms)
        kept = db.retention
        await call.reporter.record({"max_age_s": kept.max_age_s, "max_count": kept.max_count, "removed": removed})
    if removed:
        await call.reporter.note(f"{removed} messages are gone from this device; others keep theirs")
    elif is_change and net is None and kept != Retention():
        await call.reporter.note("what is older goes away when the pool is joined next")
