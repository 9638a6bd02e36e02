"""How many things a machine keeps: the sizes of all its containers, found by looking through it.

Nothing has to be told of a new table: what is there is counted.
"""

from collections import deque
from collections.abc import Collection
from types import MappingProxyType
from typing import Final

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
            inside = [(value, path) for value in _values_of(thing)]
        else:
            inside = [(getattr(thing, field, None), f"{path}.{field.lstrip('_')}") for field in _fields_of(thing)]
        for value, place in inside:
            if id(value) not in seen and _is_worth_a_look(value):
                seen.add(id(value))
                waiting.append((value, place))
    return sizes


def _values_of(thing: Collection[object]) -> Collection[object]:
    if isinstance(thing, dict | MappingProxyType):
        return thing.values()
    return ()


def _is_worth_a_look(value: object) -> bool:
    if isinstance(value, _CONTAINERS):
        return True
    module = type(value).__module__
    return module.startswith(_OURS) and not module.startswith(_SIMULATION) and not callable(value)


def _fields_of(thing: object) -> list[str]:
    slots = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
    return [name for name in (*getattr(thing, "__dict__", ()), *slots) if name not in ("__weakref__", "__dict__")]
