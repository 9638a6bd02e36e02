"""How many things a machine keeps: the sizes of all its containers, found by looking through it.

Nothing has to be told of a new table: what is there is counted.
"""

from collections import deque
from collections.abc import Collection
from types import MappingProxyType
from typing import Final

import attrs

from poolnet.ranges import RangeSet

_OURS = "poolnet."
_SIMULATION = "poolnet.testing."
#: Concrete types: those of collections.abc take ten times as long to look for.
_CONTAINERS: Final = (dict, MappingProxyType, set, frozenset, list, deque)


def count_items(machine: object, name: str, *, without: Collection[object] = ()) -> dict[str, int]:
    """Return the length of every container in a machine, and in the objects that it is made of.

    Keys are paths of attributes without leading underscores, the shortest there is: ``gossip.peers`` is a table of
    links, and what is in it follows as ``gossip.peers.to_announce``, the largest of all links. Of a `RangeSet` the runs
    count. What belongs to the simulation is left out, and `without`.
    """
    sizes: dict[str, int] = {}
    seen = {id(machine), *(id(part) for part in without)}
    waiting = deque([(machine, name)])
    while waiting:
        thing, path = waiting.popleft()
        if isinstance(thing, RangeSet):
            sizes[path] = max(sizes.get(path, 0), thing.run_count())
            continue
        if isinstance(thing, _CONTAINERS):
            sizes[path] = max(sizes.get(path, 0), len(thing))
            inside = [(value, path) for value in _values_of(thing) if _TYPES[type(value)].is_worth_a_look]
        else:
            fields = ((getattr(thing, field, None), field) for field in _fields_of(thing))
            found = [(value, field) for value, field in fields if _TYPES[type(value)].is_worth_a_look]
            inside = [(value, f"{path}.{field.lstrip('_')}") for value, field in found]
        for value, place in inside:
            if id(value) not in seen:
                seen.add(id(value))
                waiting.append((value, place))
    return sizes


def _values_of(thing: Collection[object]) -> Collection[object]:
    if isinstance(thing, dict | MappingProxyType):
        return thing.values()
    return ()


def _fields_of(thing: object) -> tuple[str, ...]:
    return (*getattr(thing, "__dict__", ()), *_TYPES[type(thing)].slots)


@attrs.frozen
class _Type:
    """What all things of one type have in common.

    Attributes:
        is_worth_a_look: whether they may be containers of a machine, or have some.
        slots: their fields, but for those in `__dict__`.
    """

    is_worth_a_look: bool
    slots: tuple[str, ...]


class _Types(dict[type, _Type]):
    """Every type that was met."""

    def __missing__(self, cls: type) -> _Type:
        is_ours = cls.__module__.startswith(_OURS) and not cls.__module__.startswith(_SIMULATION)
        is_callable = any("__call__" in vars(base) for base in cls.__mro__)
        slots = (name for base in cls.__mro__ for name in getattr(base, "__slots__", ()))
        self[cls] = found = _Type(
            is_worth_a_look=issubclass(cls, _CONTAINERS) or (is_ours and not is_callable),
            slots=tuple(name for name in slots if name not in ("__weakref__", "__dict__")),
        )
        return found


_TYPES: Final = _Types()
