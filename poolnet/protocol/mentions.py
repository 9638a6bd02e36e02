"""Whom a text calls: ``@name`` and ``@all``, found by its author's device and sent along as tags.

Names change and need not be unique; tags name devices, so what was meant stays what was meant.
"""

from collections.abc import Mapping

from poolnet.ids import DeviceId
from poolnet.limits import MAX_MENTIONS

#: Calls everyone, if nobody goes by that name.
EVERYONE = "all"


def find_mentions(text: str, names: Mapping[DeviceId, str]) -> tuple[tuple[DeviceId, ...], bool]:
    """Return the devices that `text` calls by their names, in order, at most `MAX_MENTIONS`, and whether it calls all.

    An at-sign begins a call where a word may begin. Of several names that fit the longest counts, whatever their case;
    all devices of that name are called.
    """
    by_name: dict[str, list[DeviceId]] = {}
    for device, name in names.items():
        by_name.setdefault(name.casefold(), []).append(device)
    folded = text.casefold()
    longest_first = sorted({*by_name, EVERYONE}, key=len, reverse=True)
    called: dict[DeviceId, None] = {}
    to_all = False
    start = folded.find("@")
    while start >= 0:
        found = _name_at(folded, start, longest_first)
        if found is not None:
            called.update(dict.fromkeys(by_name.get(found, ())))
            to_all |= found not in by_name
        start = folded.find("@", start + 1)
    return tuple(called)[:MAX_MENTIONS], to_all


def _name_at(folded: str, start: int, names: list[str]) -> str | None:
    if start and folded[start - 1].isalnum():  # an address
        return None
    rest = folded[start + 1 :]
    return next((name for name in names if rest.startswith(name) and _ends_word(rest, len(name))), None)


def _ends_word(text: str, end: int) -> bool:
    return end == len(text) or not (text[end].isalnum() or text[end] == "_")
