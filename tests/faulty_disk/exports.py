"""A file that is written for the user where it was asked for: the export of a history, and a copy of a picture."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from faulty_disk.subject import Step, Subject
from poolnet.errors import OutputExists
from poolnet.ids import FileId
from poolnet.protocol.hash_tree import TreeBuilder, hash_chunk
from poolnet.storage.files import sync_name
from poolnet.storage.held_files import remove_left_over
from poolnet.storage.media_cache import copy_verified
from poolnet.storage.message_export import open_export

_LINES: Final = [f"{number}: {'said ' * 3000}\n" for number in range(4)]
_PICTURE: Final = hashlib.shake_128(b"picture").digest(100_000)


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[Path]:
    remove_left_over(directory)  # as whoever writes there next
    yield directory


async def _export(directory: Path, name: str) -> None:
    path = directory / name
    try:
        async with open_export(path) as file:
            for line in _LINES:
                await file.write(line)
    except OutputExists:
        sync_name(path)


async def _save(directory: Path) -> None:
    source = directory.with_name("picture")
    if not source.exists():
        source.write_bytes(_PICTURE)
    try:
        copy_verified(source, _id_of(_PICTURE), directory / "cat.png")
    except OutputExists:
        sync_name(directory / "cat.png")


def _id_of(content: bytes) -> FileId:
    builder = TreeBuilder()
    builder.add(hash_chunk(content))
    return builder.finish(len(content))[0]


async def _observe(directory: Path) -> Any:
    """What has its name is whole."""
    found = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    for name in found:
        assert (directory / name).read_bytes() == (_PICTURE if name == "cat.png" else "".join(_LINES).encode())
    return found


EXPORT: Final = Subject(
    open=_open,
    steps=[
        Step("export", lambda directory: _export(directory, "history.jsonl")),
        Step("save", _save),
        Step("export another", lambda directory: _export(directory, "history.md")),
    ],
    observe=_observe,
    belongs=["history.jsonl", "history.md", "cat.png"],
)
