"""Small JSON stores: separate files, each replaced as a whole, so that a crash leaves the old one or the new one.

Synchronous; to be called in a thread.
"""

import json
from pathlib import Path
from typing import Any

from poolnet.errors import StoreError, WireError
from poolnet.json_text import decode_json_untrusted
from poolnet.storage.durable import keep_aside, store_errors, write_durably


def read_json(path: Path, default: Any) -> Any:
    """Return the value in `path`, or `default` if there is no such file.

    Raises:
        StoreError: it cannot be read, or is not JSON. In the latter case it is kept aside, so that the next try
            starts from `default`.
    """
    with store_errors("read", path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return default
    try:
        return decode_json_untrusted(content)
    except WireError as exc:
        aside = keep_aside(path)
        raise StoreError(f"{path} is damaged; it is kept as {aside.name}, and the next start goes without it") from exc


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value`, durably and atomically.

    Raises:
        StoreError: it cannot be written (`DiskFull` if that is why); the old content is intact.
    """
    write_durably(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")
