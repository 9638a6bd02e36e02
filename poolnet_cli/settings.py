"""What this device may take of its connection and its disk: the settings of a home, and options that win over them.

``settings.json`` in the home holds what was set, by name; what is not in it has its default. A limit of 0 is none.
"""

import errno
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from poolnet import DiskFull, StoreError, WireError
from poolnet.json_text import decode_json_untrusted
from poolnet.limits import DEFAULT_CACHE_SIZE, DEFAULT_CONCURRENT_DOWNLOADS, MEDIA_CACHE_SIZE
from poolnet_cli.units import MAX_SIZE_BYTES, format_rate, format_size, parse_size

FILE_NAME: Final = "settings.json"
#: More at once only compete for the same connection.
MAX_DOWNLOADS: Final = 1000


@attrs.frozen(kw_only=True)
class Limits:
    """What this device may take; None where nothing was said.

    Attributes:
        up: bytes a second of files that go out, 0 for as many as possible.
        down: bytes a second of files that come in, 0 for as many as possible.
        downloads: that run at once in a pool.
        cache: bytes of a pool that are held on disk for others, 0 for none.
        pictures: bytes of a pool's pictures that are kept; 0: none is fetched unasked.
        tcp: whether files may travel over TCP.
    """

    up: int | None = None
    down: int | None = None
    downloads: int | None = None
    cache: int | None = None
    pictures: int | None = None
    tcp: bool | None = None

    def over(self, other: "Limits") -> "Limits":
        """Return these, and where they say nothing, `other`."""
        said = attrs.asdict(self)
        return attrs.evolve(other, **{name: value for name, value in said.items() if value is not None})

    @property
    def said(self) -> bool:
        """Whether they say anything."""
        return self != NOTHING_SAID


NOTHING_SAID: Final = Limits()
#: Where neither an option nor a setting says something.
DEFAULTS: Final = Limits(
    up=0,
    down=0,
    downloads=DEFAULT_CONCURRENT_DOWNLOADS,
    cache=DEFAULT_CACHE_SIZE,
    pictures=MEDIA_CACHE_SIZE,
    tcp=True,
)


@attrs.frozen(kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: as it is typed.
        field: of `Limits`.
        parse: returns the value that a text means, or raises ValueError, whose message says what to write.
        show: returns a value as text for people.
        low, high: the least and the largest value; of a switch, off and on.
    """

    name: str
    field: str
    meaning: str
    parse: Callable[[str], int | bool]
    show: Callable[[Any], str]
    low: int | bool = 0
    high: int | bool = MAX_SIZE_BYTES

    def takes(self, value: Any) -> bool:
        """Return whether it can have this value."""
        return type(value) is type(self.high) and self.low <= value <= self.high


def parse_rate(text: str) -> int:
    """Return the bytes a second that a text means; 0 for ``none``.

    Raises:
        ValueError: it is no rate.
    """
    return 0 if text.strip().lower() in ("none", "unlimited") else parse_size(text)


def _parse_count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MAX_DOWNLOADS:
        raise ValueError(f"{text!r} is not a number of downloads; write 1 to {MAX_DOWNLOADS}")
    return int(text)


def _parse_switch(text: str) -> bool:
    word = text.strip().lower()
    if word not in ("on", "yes", "true", "off", "no", "false"):
        raise ValueError(f"{text!r} is neither on nor off")
    return word in ("on", "yes", "true")


def _shown_rate(value: int) -> str:
    return format_rate(value) if value else "none"


SETTINGS: Final[dict[str, Setting]] = {
    setting.name: setting
    for setting in (
        Setting(name="limit-up", field="up", meaning="sent of files, a second", parse=parse_rate, show=_shown_rate),
        Setting(name="limit-down", field="down", meaning="fetched, a second", parse=parse_rate, show=_shown_rate),
        Setting(
            name="downloads",
            field="downloads",
            meaning="at once in a pool",
            parse=_parse_count,
            show=str,
            low=1,
            high=MAX_DOWNLOADS,
        ),
        Setting(name="cache", field="cache", meaning="held for others, a pool", parse=parse_size, show=format_size),
        Setting(
            name="pictures", field="pictures", meaning="shown by others, a pool", parse=parse_size, show=format_size
        ),
        Setting(
            name="tcp",
            field="tcp",
            meaning="files over TCP where it can be had",
            parse=_parse_switch,
            show=lambda value: "on" if value else "off",
            low=False,
            high=True,
        ),
    )
}


@attrs.frozen(kw_only=True)
class StoredSettings:
    """What was set in a home; `wrong` says in a sentence each which values cannot be, and are left out."""

    limits: Limits
    wrong: tuple[str, ...] = ()


def read_settings(home: Path) -> StoredSettings:
    """Return what was set in a home; nothing if it has no settings.

    Raises:
        StoreError: they are damaged or cannot be read.
    """
    values = _read(home / FILE_NAME)
    stored = {name: values[name] for name in SETTINGS if values.get(name) is not None}
    wrong = [name for name, value in stored.items() if not SETTINGS[name].takes(value)]
    told = "{} has a value that cannot be, and is left out; poolnet settings {} VALUE sets it again"
    return StoredSettings(
        limits=Limits(**{SETTINGS[name].field: value for name, value in stored.items() if name not in wrong}),
        wrong=tuple(f"{home / FILE_NAME}: {told.format(name, name)}" for name in wrong),
    )


def write_setting(home: Path, name: str, value: int | bool | None) -> None:
    """Set one of the `SETTINGS`, durably; None is its default. Others in the file stay as they are.

    Raises:
        StoreError: they are damaged, or cannot be read or written (`DiskFull` if that is why).
    """
    values = {**_read(home / FILE_NAME), name: value}
    kept = {name: value for name, value in values.items() if value is not None}
    try:
        _replace(home / FILE_NAME, json.dumps(kept, indent=1, sort_keys=True) + "\n")
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left to write {home / FILE_NAME}; free some and try again") from exc
        raise StoreError(f"{home / FILE_NAME} cannot be written: {exc.strerror}") from exc


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = decode_json_untrusted(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {exc.strerror}") from exc
    except WireError as exc:
        raise StoreError(f"{path} is damaged; move it away, then set anew what was in it") from exc
    if not isinstance(values, dict):
        raise StoreError(f"{path} does not hold what poolnet writes; move it away")
    return values


def _replace(path: Path, content: str) -> None:
    """Replace a file durably, so that a crash leaves the old one or the new one.

    What a crash leaves of the new one has a name that the next start of the home knows, and removes.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
