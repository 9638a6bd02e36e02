"""Which packages somebody who installs poolnet gets, in the versions that are installed here."""

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed_packages(root: str = "poolnet", extras: frozenset[str] = frozenset({"media"})) -> dict[str, str]:
    """Return name and version of all that a package needs, directly or not, as far as it is installed."""
    found: dict[str, str] = {}
    waiting = [(root, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system, or another Python
        if name != root:
            found[name] = distribution.version
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if applies(requirement, wanted):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return dict(sorted(found.items()))


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Return whether a package that was asked for with some extras needs another one here."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))
