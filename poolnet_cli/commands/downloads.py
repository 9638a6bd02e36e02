"""``downloads``: what is being fetched in the background, and what became of it."""

from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from poolnet import DownloadInfo, FileId, FileManager, UnknownFile
from poolnet_cli.command import Call
from poolnet_cli.commands.finding import meant
from poolnet_cli.records import download_record

#: What can be done with one download, by name. Nothing else is asked for through the control socket.
_ACTIONS: Final[dict[str, Callable[[FileManager, FileId], Awaitable[None]]]] = {
    "pause": lambda files, file_id: files.pause(file_id),
    "resume": lambda files, file_id: files.resume(file_id),
    "cancel": lambda files, file_id: files.cancel(file_id),
}


async def downloads(call: Call) -> None:
    """List downloads, or change one, and list how it stands then.

    Params: pool, action (None, "pause", "resume", "cancel", "priority" or "forget"), file (of an action), priority.
    Where the pool is not joined, what is stored is changed: that counts when it is joined next.

    Raises:
        UnknownFile: there is no such download, several are meant, or it is over.
    """
    action = call.params["action"]
    info = call.session.node.find_pool(call.params["pool"])
    async with call.session.open_files(info) as files:
        if action == "forget":
            await _forget(call, files)
            return
        chosen = None if action is None else _find(files, call.params["file"])
        if chosen is not None:
            _check_not_over(files, chosen, action)
            await _change(files, chosen, action, call.params["priority"])
        listed = [info for info in files.downloads() if chosen in (None, info.file_id)]
        is_joined = call.session.joined(info.pool_id) is not None
        for item in listed:
            await call.reporter.record(download_record(item if is_joined else _at_rest(item)))
        if action is None and not listed:
            await call.reporter.note("no downloads; poolnet get --background starts one")
    if action == "resume" and not is_joined:
        await call.reporter.note("no join runs in this home; it goes on while one does")


def _at_rest(item: DownloadInfo) -> DownloadInfo:
    """Return a download as it stands while nothing moves."""
    if item.state not in ("queued", "running"):
        return item
    return attrs.evolve(item, state="queued", rate_bytes_per_s=0.0, reason="it waits for the next join")


async def _change(files: FileManager, file_id: FileId, action: str, priority: int | None) -> None:
    if action == "priority":
        assert priority is not None, "it comes with that action"
        files.prioritise(file_id, priority)
    else:
        await _ACTIONS[action](files, file_id)


def _check_not_over(files: FileManager, file_id: FileId, action: str) -> None:
    """Raise UnknownFile if there is nothing to change about the downloads of a file: complete, or cancelled."""
    infos = [info for info in files.downloads() if info.file_id == file_id]
    latest = infos[-1]
    if all(info.state == "complete" for info in infos):
        raise UnknownFile(f"{latest.name} is complete: {latest.path}; --forget takes it off the list")
    if action != "resume" and all(info.state == "complete" or info.code == "cancelled" for info in infos):
        raise UnknownFile(f"{latest.name} is cancelled already; --resume tries it again")


async def _forget(call: Call, files: FileManager) -> None:
    ended = sum(info.state in ("complete", "failed") for info in files.downloads())
    await files.forget_downloads()
    await call.reporter.record({"event": "forgotten", "downloads": ended})
    await call.reporter.note(f"{ended} that had ended are forgotten; their files stay")


def _find(files: FileManager, text: str) -> FileId:
    """Return the file whose download is meant: of equal names, one that has not ended.

    Raises:
        UnknownFile: there is none, or there are several.
    """
    infos = files.downloads()
    going_on = [info for info in infos if info.state not in ("complete", "failed")]
    found = meant(_names(going_on), text) or meant(_names(infos), text)
    if found is None:
        raise UnknownFile(f"there is no download {text!r}, by name or id; poolnet downloads lists them")
    return found


def _names(infos: list[DownloadInfo]) -> list[tuple[FileId, str]]:
    return [(info.file_id, info.name) for info in infos]
