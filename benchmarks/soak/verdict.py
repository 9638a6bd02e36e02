"""What has to be true at the end of a soak, as sentences of what is not. No processes here; files are read."""

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Final

import attrs
import blake3

#: So many ids are named of what is wrong.
_NAMED: Final = 3
#: All that a closed home may hold, below it; whatever else is there was left by somebody.
_IN_A_HOME: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"device\.key|profile\.json|lock|pools",
        r"pools/[a-z0-9]+",
        r"pools/[a-z0-9]+/(pool|statements)\.json",
        r"pools/[a-z0-9]+/messages\.db",
        r"pools/[a-z0-9]+/files(/(trees|folders|media|streams))?",
        r"pools/[a-z0-9]+/files/(offers|downloads|queue)\.json",
        r"pools/[a-z0-9]+/files/(trees/[a-z0-9]+\.tree|folders/[a-z0-9]+\.(list|stamps)|media/[a-z0-9]+)",
        r"server\.db",
        r"settings\.json",
    )
)
#: What is never left below a home, or where downloads go.
_UNFINISHED: Final = re.compile(
    r".*\.(part|journal|tmp|ring|damaged|damaged-\d+|forgotten)|\..+\.[0-9a-f]{8}|.*-(wal|shm)"
)

_COMPLAINTS: Final = (
    "Traceback",
    "ResourceWarning",
    "never awaited",
    "Exception ignored",
    "Fatal Python error",
    "protocol violation",
)


@attrs.define
class Ledger:
    """What was acknowledged, and what was asked for. Ids as text.

    Attributes:
        said: the author of each message whose `send` returned.
        taken_back: those that somebody was asked to take back.
        offered: who offers a file, and what it was made of; of those whose `offer` returned.
        withdrawn: those that somebody was asked to withdraw.
        sources: all that was to be offered.
    """

    said: dict[str, str] = attrs.Factory(dict)
    taken_back: set[str] = attrs.Factory(set)
    offered: dict[str, tuple[str, Path]] = attrs.Factory(dict)
    withdrawn: set[str] = attrs.Factory(set)
    sources: list[Path] = attrs.Factory(list)


def differing_histories(histories: Mapping[str, Sequence[str]]) -> list[str]:
    """Compare everyone's history with that of the first."""
    (first, reference), *others = histories.items()
    found = []
    for name, ids in others:
        if list(ids) == list(reference):
            continue
        missing, more = set(reference) - set(ids), set(ids) - set(reference)
        what = f"lacks {len(missing)} {_some(missing)} and has {len(more)} more {_some(more)}"
        found.append(f"{name} {what if missing or more else 'has them in another order'}, compared with {first}")
    return found


def lost_messages(ledger: Ledger, histories: Mapping[str, Sequence[str]]) -> list[str]:
    """Look for everything acknowledged in every history."""
    safe = set(ledger.said) - ledger.taken_back
    found = []
    for name, ids in histories.items():
        lost = safe - set(ids)
        authors = sorted({ledger.said[msg_id] for msg_id in lost})
        if lost:
            found.append(f"{name} lacks {len(lost)} acknowledged messages {_some(lost)} of {', '.join(authors)}")
    return found


def wrong_files(ledger: Ledger, outs: Mapping[str, Path]) -> list[str]:
    """Compare every file that every member fetched with what was offered; each is named for its id."""
    digests = {source: digest_of(source) for source in ledger.sources}
    found = []
    for name, out in outs.items():
        here = {path.name: digest_of(path) for path in out.iterdir() if not _UNFINISHED.fullmatch(path.name)}
        for file_id, digest in here.items():
            _, source = ledger.offered.get(file_id, ("", None))
            if digest not in (digests.values() if source is None else (digests[source],)):
                found.append(f"{name} has a copy of {file_id} that is not what was offered ({source})")
        wanted = {file_id for file_id, (owner, _) in ledger.offered.items() if owner != name} - ledger.withdrawn
        if lacking := wanted - set(here):
            found.append(f"{name} lacks {len(lacking)} files {_some(lacking)}")
    return found


def digest_of(path: Path) -> bytes:
    """Return a hash over a file, or over all names and contents of a folder."""
    if path.is_file():
        return blake3.blake3(path.read_bytes()).digest()
    whole = blake3.blake3()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            whole.update(f"{file.relative_to(path)}\0".encode() + digest_of(file))
    return whole.digest()


def left_over(home: Path) -> list[str]:
    """Return what is in a closed home and does not belong there."""
    return [
        f"{path} was left over"
        for path in sorted(home.rglob("*"))
        if _UNFINISHED.fullmatch(path.name)
        or not any(pattern.fullmatch(path.relative_to(home).as_posix()) for pattern in _IN_A_HOME)
    ]


def unfinished_in(out: Path, withdrawn: Set[str] = frozenset()) -> list[str]:
    """Return what is left of downloads beside what was fetched; of what was withdrawn meanwhile the part stays."""
    return [
        f"{path} was left over"
        for path in sorted(out.rglob("*"))
        if _UNFINISHED.fullmatch(path.name) and path.relative_to(out).parts[0].partition(".")[0] not in withdrawn
    ]


def complaints(log: Path) -> list[str]:
    """Return what a process wrote to its standard error that none should write: of each kind the first line.

    That is what Python writes when something was not closed or awaited, and what poolnet writes of a peer that breaks
    the protocol: all of them are honest.
    """
    if not log.exists():
        return []
    lines = log.read_text(errors="replace").splitlines()
    told = []
    for mark in _COMPLAINTS:
        found = [line for line in lines if mark in line]
        told += [f"{log}: {found[0]} ({len(found)} such lines)"] if found else []
    return told


def _some(ids: set[str]) -> str:
    shown = ", ".join(each[:12] for each in sorted(ids)[:_NAMED])
    return f"({shown}{' …' if len(ids) > _NAMED else ''})" if ids else ""
