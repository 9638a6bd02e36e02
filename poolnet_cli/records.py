"""What the library tells, as JSON objects: the schema of docs/cli.md, in one place.

Ids are full base32, sizes bytes, rates bytes a second, times seconds since 1970. Texts and names are as their authors
wrote them; JSON escapes what could act on a terminal.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Final, assert_never

from poolnet import (
    AnnouncementReceived,
    AppMessageReceived,
    ClockWrong,
    DeviceId,
    DownloadComplete,
    DownloadFailed,
    DownloadInfo,
    DownloadPaused,
    DownloadProgress,
    DownloadResumed,
    EntryKind,
    ErrorReported,
    EventsDropped,
    FileId,
    FileOffered,
    FolderEntry,
    HistoryEntry,
    MediaReceived,
    MemberInfo,
    Mentioned,
    MessageReceived,
    MessageRetracted,
    MsgId,
    NodeJoined,
    NodeLeft,
    NodeRenamed,
    OfferInfo,
    OfferKind,
    OfferRetracted,
    PoolEvent,
    PoolInfo,
    PoolNet,
    ServerAttached,
    ServerLost,
    Session,
    SourceLost,
    UnknownMessageReceived,
    encode_id,
    short_id,
)
from poolnet.clock import Hlc, hlc_ms
from poolnet_cli.outcome import Outcome
from poolnet_cli.reporter import Record

#: What is in a folder.
_ENTRY_KINDS: Final = {
    EntryKind.FILE: "file",
    EntryKind.EXECUTABLE: "executable",
    EntryKind.EMPTY_DIRECTORY: "directory",
}


def event_record(event: PoolEvent) -> Record:
    """Return an event of a pool as a record."""
    match event:
        case NodeJoined():
            return node_record("node_joined", event.node, event.name)
        case NodeLeft():
            return node_record("node_left", event.node, event.name)
        case NodeRenamed():
            return {**node_record("node_renamed", event.node, event.name), "old_name": event.old_name}
        case MessageReceived():
            return message_record(
                event.msg_id,
                event.node,
                event.name,
                event.text,
                event.key,
                is_late=event.is_late,
                mentions=event.mentions,
                to_all=event.to_all,
            )
        case (
            AnnouncementReceived() | Mentioned() | MessageRetracted() | AppMessageReceived() | UnknownMessageReceived()
        ):
            return _about_message_record(event)
        case FileOffered():
            record = offer_record(
                event.file_id,
                event.file_name,
                event.size_bytes,
                event.node,
                kind=event.kind,
                file_count=event.file_count,
            )
            return {**record, "preview": _base64(event.preview)} if event.preview else record
        case OfferRetracted():
            return {"event": "retracted", "file_id": encode_id(event.file_id)}
        case DownloadProgress() | DownloadComplete() | DownloadPaused() | DownloadResumed() | DownloadFailed():
            return _download_record(event)
        case MediaReceived():
            return media_record(event)
        case _:
            return _notice_record(event)


def _download_record(
    event: DownloadProgress | DownloadComplete | DownloadPaused | DownloadResumed | DownloadFailed,
) -> Record:
    match event:
        case DownloadProgress():
            return progress_record(event)
        case DownloadComplete():
            return complete_record(event.file_id, str(event.path))
        case DownloadPaused():
            why = {"code": event.code, "reason": event.reason}
            return {"event": "download_paused", "file_id": encode_id(event.file_id), **why}
        case DownloadResumed():
            return {"event": "download_resumed", "file_id": encode_id(event.file_id)}
        case DownloadFailed():
            why = {"code": event.code, "reason": event.reason}
            return {"event": "download_failed", "file_id": encode_id(event.file_id), **why}
        case _:
            assert_never(event)


def _about_message_record(
    event: AnnouncementReceived | Mentioned | MessageRetracted | AppMessageReceived | UnknownMessageReceived,
) -> Record:
    who = {"id": encode_id(event.msg_id), "node": encode_id(event.node), "name": event.name}
    match event:
        case Mentioned():
            return {"event": "mention", **who, "text": event.text, "to_all": event.to_all}
        case MessageRetracted():
            return {"event": "message_retracted", **who}
        case AnnouncementReceived():
            return {"event": "announcement", **who, "text": event.text, **_when(event)}
        case AppMessageReceived():
            return {"event": "app_message", **who, "app": event.app_name, "data": _base64(event.data), **_when(event)}
        case UnknownMessageReceived():
            return {"event": "unknown_message", **who, "kind": event.kind, **_when(event)}
        case _:
            assert_never(event)


def _when(event: AnnouncementReceived | AppMessageReceived | UnknownMessageReceived | HistoryEntry) -> Record:
    return {"time": event.unix_ms / 1000, "order": _order(event.key), "late": event.is_late}


def _order(key: tuple[Hlc, MsgId]) -> str:
    """Return a place in the order of the pool as text that sorts like it."""
    return f"{key[0]:016x}{key[1][:8].hex()}"


def _notice_record(
    event: SourceLost | ServerAttached | ServerLost | ClockWrong | ErrorReported | EventsDropped,
) -> Record:
    match event:
        case ClockWrong():
            return {"event": "clock_wrong", "ahead_s": round(event.ahead_s, 3)}
        case SourceLost():
            return error_record("source_lost", f"{event.reason}; it is no longer offered")  # the reason names the path
        case ServerAttached():
            return {"event": "server_attached", "address": event.address}
        case ServerLost():
            return {"event": "server_lost", "address": event.address, "reason": event.reason}
        case ErrorReported():
            return error_record(event.code, event.message)
        case EventsDropped():
            return error_record("events_dropped", f"{event.count} events were dropped: the output is read too slowly")
        case _:
            assert_never(event)


def node_record(word: str, node: DeviceId, name: str) -> Record:
    """Return the event that a node came or went."""
    return {"event": word, "node": encode_id(node), "name": name}


def joined_record(info: PoolInfo, node: DeviceId, name: str) -> Record:
    """Return the event that this device is in the pool."""
    pool = encode_id(info.pool_id)
    return {"event": "joined", "pool": pool, "node": encode_id(node), "name": name, "pool_name": info.name}


def message_record(
    msg_id: MsgId,
    node: DeviceId,
    name: str,
    text: str,
    key: tuple[Hlc, MsgId],
    *,
    is_late: bool = False,
    mentions: Sequence[DeviceId] = (),
    to_all: bool = False,
) -> Record:
    """Return one message, live or from history."""
    return {
        "event": "message",
        "id": encode_id(msg_id),
        "node": encode_id(node),
        "name": name,
        "text": text,
        "time": hlc_ms(key[0]) / 1000,
        "order": _order(key),
        "late": is_late,
        "mentions": [encode_id(device) for device in mentions],
        "to_all": to_all,
    }


def history_record(entry: HistoryEntry) -> Record:
    """Return one message of the history: the same fields as when it was live; of an offer its name and what it is."""
    when = _when(entry)
    who = {"id": encode_id(entry.msg_id), "node": encode_id(entry.node), "name": entry.name}
    match entry.kind:
        case "text":
            return message_record(
                entry.msg_id,
                entry.node,
                entry.name,
                entry.text or "",
                entry.key,
                is_late=entry.is_late,
                mentions=entry.mentions,
                to_all=entry.to_all,
            )
        case "announcement":
            return {"event": "announcement", **who, "text": entry.text, **when}
        case "offer":
            what = {"kind": entry.offer_kind or "file", "file_count": entry.file_count}
            return {"event": "offered", **who, "file": entry.text, **what, **when}
        case _:
            return {"event": "unknown_message", **who, "kind": entry.kind, **when}


def session_record(session: Session, number: int, names: Mapping[DeviceId, str]) -> Record:
    """Return one session of the history; the latest one has the number 1."""
    return {
        "event": "session",
        "number": number,
        "start": session.start_ms / 1000,
        "end": session.end_ms / 1000,
        "messages": session.count,
        "nodes": [{"node": encode_id(node), "name": names.get(node, short_id(node))} for node in session.participants],
    }


def offer_record(
    file_id: FileId, name: str, size_bytes: int, node: DeviceId, *, kind: OfferKind = "file", file_count: int = 1
) -> Record:
    """Return the event that a file, folder, picture or stream can be fetched."""
    return {
        "event": "offer",
        "file_id": encode_id(file_id),
        "name": name,
        "size": size_bytes,
        "node": encode_id(node),
        "kind": kind,
        "file_count": file_count,
    }


def media_record(event: MediaReceived) -> Record:
    """Return the event that a picture which somebody shows is here."""
    return {
        "event": "media_received",
        "file_id": encode_id(event.file_id),
        "file": event.file_name,
        "path": str(event.path),
        "width": event.width,
        "height": event.height,
        "node": encode_id(event.node),
        "name": event.name,
    }


def file_record(offer: OfferInfo) -> Record:
    """Return one file of the list of files."""
    return {
        "file_id": encode_id(offer.file_id),
        "name": offer.name,
        "size": offer.size_bytes,
        "kind": offer.kind,
        "file_count": offer.file_count,
        "holders": offer.holders,
        "nodes": [encode_id(node) for node in offer.nodes],
        "state": offer.state,
        "bytes": offer.done_bytes,
        "path": None if offer.local_path is None else str(offer.local_path),
    }


def entry_record(entry: FolderEntry) -> Record:
    """Return one file or empty directory of a folder."""
    return {"path": entry.path, "size": entry.size_bytes, "kind": _ENTRY_KINDS[entry.kind]}


def progress_record(event: DownloadProgress) -> Record:
    """Return the progress of a download."""
    return {
        "event": "progress",
        "file_id": encode_id(event.file_id),
        "bytes": event.done_bytes,
        "size": event.size_bytes,
        "rate": round(event.rate_bytes_per_s),
        "sources": event.sources,
    }


def download_record(info: DownloadInfo) -> Record:
    """Return one download of the list of downloads."""
    return {
        "file_id": encode_id(info.file_id),
        "name": info.name,
        "kind": info.kind,
        "size": info.size_bytes,
        "bytes": info.done_bytes,
        "rate": round(info.rate_bytes_per_s),
        "sources": info.sources,
        "eta": None if info.eta_s is None else round(info.eta_s, 1),
        "state": info.state,
        "code": info.code,
        "reason": info.reason,
        "path": str(info.path),
        "priority": info.priority,
        "started": info.started_ms / 1000,
        "ended": None if info.ended_ms is None else info.ended_ms / 1000,
    }


def complete_record(file_id: FileId, path: str) -> Record:
    """Return the event that a file is whole and at its place."""
    return {"event": "complete", "file_id": encode_id(file_id), "path": path}


def peer_record(member: MemberInfo) -> Record:
    """Return one member and the link to it, if there is one."""
    return {
        "node": encode_id(member.node),
        "name": member.name,
        "linked": member.linked,
        "address": member.address,
        "rtt_ms": None if member.rtt_s is None else round(member.rtt_s * 1000, 3),
        "datagram_size": member.datagram_size,
        "online": member.online,
        "role": member.role,
        "rate_in": round(member.rate_in),
        "rate_out": round(member.rate_out),
        "carrier": member.carrier,
        "conduct": member.conduct,
        "shunned_s": None if member.shunned_s is None else round(member.shunned_s),
    }


def pool_record(info: PoolInfo, device: DeviceId, joined: PoolNet | None) -> Record:
    """Return one pool of this home, with the bytes of files that it moved if it is joined."""
    moved = None if joined is None else joined.files.statistics().exchange
    return {
        "pool": encode_id(info.pool_id),
        "name": info.name,
        "role": info.role,
        "servers": [str(server) for server in info.servers],
        "hosts_server": info.hosts_server,
        "joined": joined is not None,
        "attached": joined is not None and joined.is_attached,
        "file_bytes_in": 0 if moved is None else moved.bytes_in,
        "file_bytes_out": 0 if moved is None else moved.bytes_out,
        "device": encode_id(device),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def error_record(code: str, message: str) -> Record:
    """Return the event that something went wrong."""
    return {"event": "error", "code": code, "message": message}


def failure_record(outcome: Outcome) -> Record:
    """Return the event of a command that failed."""
    return error_record(outcome.code, outcome.message)
