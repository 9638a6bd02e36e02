"""The stores that are tried, by name."""

from typing import Any, Final

from faulty_disk.caches import MEDIA, RING
from faulty_disk.exports import EXPORT
from faulty_disk.file_tables import FILE_TABLE
from faulty_disk.histories import HISTORY, HISTORY_WITH_SMALL_LOG
from faulty_disk.homes import HOME
from faulty_disk.live_files import FILES
from faulty_disk.parts import FOLDER, PART
from faulty_disk.servers import SERVER
from faulty_disk.streams import STREAM
from faulty_disk.subject import Subject

SUBJECTS: Final[dict[str, Subject[Any]]] = {
    "history": HISTORY,
    "history with a small log": HISTORY_WITH_SMALL_LOG,
    "part": PART,
    "folder": FOLDER,
    "stream": STREAM,
    "files": FILES,
    "export": EXPORT,
    "file table": FILE_TABLE,
    "home": HOME,
    "server": SERVER,
    "ring": RING,
    "media": MEDIA,
}
