"""What the library tells, as JSON objects: the schema of docs/cli.md, in one place.

Ids are full base32, sizes bytes, rates bytes a second, times seconds since 1970. Texts and names are as their authors
wrote them; JSON escapes what could act on a terminal.
"""

from typing import assert_never

from poolnet import (
    DeviceId,
    DownloadComplete,
    DownloadProgress,
    ErrorReported,
    EventsDropped,
    FileId,
    FileOffered,
    HistoryEntry,
    MemberInfo,
    MessageReceived,
    MsgId,
    NodeJoined,
    NodeLeft,
    OfferInfo,
    OfferRetracted,
    PoolEvent,
    PoolInfo,
    PoolNet,
    ServerAttached,
    ServerLost,
    SourceLost,
    encode_id,
)
from poolnet_cli.outcome import Outcome
from poolnet_cli.reporter import Record


def event_record(event: PoolEvent) -> Record:
    """Return an event of a pool as a record."""
    match event:
        case NodeJoined():
            return node_record("node_joined", event.node, event.name)
        case NodeLeft():
            return node_record("node_left", event.node, event.name)
        case MessageReceived():
            return message_record(event.msg_id, event.node, event.name, event.text, event.unix_ms)
        case FileOffered():
            return offer_record(event.file_id, event.file_name, event.size_bytes, event.node)
        case OfferRetracted():
            return {"event": "retracted", "file_id": encode_id(event.file_id)}
        case DownloadProgress():
            return progress_record(event)
        case DownloadComplete():
            return complete_record(event.file_id, str(event.path))
        case _:
            return _notice_record(event)


def _notice_record(event: SourceLost | ServerAttached | ServerLost | ErrorReported | EventsDropped) -> Record:
    match event:
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


def message_record(msg_id: MsgId, node: DeviceId, name: str, text: str, unix_ms: int) -> Record:
    """Return one message, live or from history."""
    return {
        "event": "message",
        "id": encode_id(msg_id),
        "node": encode_id(node),
        "name": name,
        "text": text,
        "time": unix_ms / 1000,
    }


def history_record(entry: HistoryEntry) -> Record:
    """Return one message of the history: the same fields as when it was live."""
    return message_record(entry.msg_id, entry.node, entry.name, entry.text, entry.unix_ms)


def offer_record(file_id: FileId, name: str, size_bytes: int, node: DeviceId) -> Record:
    """Return the event that a file can be fetched."""
    return {"event": "offer", "file_id": encode_id(file_id), "name": name, "size": size_bytes, "node": encode_id(node)}


def file_record(offer: OfferInfo) -> Record:
    """Return one file of the list of files."""
    return {
        "file_id": encode_id(offer.file_id),
        "name": offer.name,
        "size": offer.size_bytes,
        "nodes": [encode_id(node) for node in offer.nodes],
        "state": offer.state,
        "bytes": offer.done_bytes,
        "path": None if offer.local_path is None else str(offer.local_path),
    }


def progress_record(event: DownloadProgress) -> Record:
    """Return the progress of a download."""
    return {
        "event": "progress",
        "file_id": encode_id(event.file_id),
        "bytes": event.done_bytes,
        "size": event.size_bytes,
        "rate": round(event.rate_bytes_per_s),
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


def error_record(code: str, message: str) -> Record:
    """Return the event that something went wrong."""
    return {"event": "error", "code": code, "message": message}


def failure_record(outcome: Outcome) -> Record:
    """Return the event of a command that failed."""
    return error_record(outcome.code, outcome.message)
