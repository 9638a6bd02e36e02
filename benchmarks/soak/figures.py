"""Memory, descriptors and threads of processes, from /proc (Linux), and whether they grow.

What counts as memory is what a process has for itself (anonymous pages): what it maps of files is shared with others
and comes and goes with them. A slope is that of Theil and Sen, the median of the slopes of all pairs, which a few peaks
do not move (P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968).
"""

import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import attrs

#: Fewer samples say nothing.
_FEWEST: Final = 24
#: More make no better slope, only more pairs.
_MOST: Final = 400
#: The C library's allocator takes more and more memory at first, and then goes on with what was freed.
_WARM_UP_S: Final = 300.0
#: What may be added in the time looked at: ids of messages and offers are remembered, up to bounds (limits.py) that are
#: not reached in minutes. What is lost with each link, file or request that ends shows much earlier.
_BYTES_AT_ALL: Final = 4 * 2**20
_BYTES_PER_MESSAGE: Final = 1000
_OBJECTS_AT_ALL: Final = 5000
_OBJECTS_PER_MESSAGE: Final = 10
_DESCRIPTORS: Final = 3.0
#: What a node may have at most, whatever it does (docs/architecture.md).
_MOST_BYTES: Final = 150 * 2**20
_KIB: Final = 1024


@attrs.frozen(kw_only=True)
class Sample:
    """What one process had at one time."""

    at_s: float
    anonymous_bytes: int
    rss_bytes: int
    pss_bytes: int
    descriptors: int
    threads: int


@attrs.frozen(kw_only=True)
class Growth:
    """How something grew: by `slope`, and from the first to the second half of the time looked at."""

    per_s: float
    over_s: float
    halves: float

    @property
    def total(self) -> float:
        """What it grew by, as both measures agree."""
        by_slope = self.per_s * self.over_s
        by_halves = 2 * self.halves
        return min(by_slope, by_halves) if by_slope > 0 else max(by_slope, min(by_halves, 0))


def take_sample(pid: int, at_s: float) -> Sample | None:
    """Return what a process has now, or None if it is no more."""
    directory = Path(f"/proc/{pid}")
    try:
        memory = _sizes(directory / "smaps_rollup")
        return Sample(
            at_s=at_s,
            anonymous_bytes=memory["Anonymous"],
            rss_bytes=memory["Rss"],
            pss_bytes=memory["Pss"],
            descriptors=len(os.listdir(directory / "fd")),
            threads=len(os.listdir(directory / "task")),
        )
    except (OSError, KeyError):  # it ends at this moment
        return None


def children_of(pids: Collection[int]) -> list[str]:
    """Return the child processes of some processes, also those that have ended and that nobody has waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:  # it ends at this moment
            continue
        state, parent = rest.split()[:2]
        if int(parent) in pids:
            found.append(f"{name}) in state {state}, child of {parent}")
    return found


def growth(points: Sequence[tuple[float, float]]) -> Growth | None:
    """Return how something grew, of which there are points of time and value; None if there are too few to say."""
    if len(points) < _FEWEST:
        return None
    some = points[:: -(-len(points) // _MOST)]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(some, 2) if b[0] > a[0]]
    half = len(points) // 2
    earlier, later = (median(value for _, value in part) for part in (points[:half], points[half:]))
    return Growth(per_s=median(slopes), over_s=points[-1][0] - points[0][0], halves=later - earlier)


def lived_through(times: Sequence[float], *, from_s: float, until_s: float) -> bool:
    """Return whether samples of a process at these times say what it did in all of a time."""
    slack = (until_s - from_s) / 10
    return bool(times) and times[0] <= from_s + slack and times[-1] >= until_s - slack


def memory_growth(samples: Sequence[Sample], *, from_s: float, until_s: float) -> Growth | None:
    """Return how the memory of a process grew in a time, in bytes, once it was warm; None if that was not for long."""
    warm_s = max(from_s, samples[0].at_s + _WARM_UP_S)
    return growth([(each.at_s, each.anonymous_bytes) for each in samples if warm_s <= each.at_s <= until_s])


def what_grew(
    lives: Mapping[str, Sequence[Sample]],
    objects: Mapping[str, Sequence[tuple[float, int]]],
    *,
    from_s: float,
    until_s: float,
    messages: int,
) -> list[str]:
    """Return a sentence for each process that lived through a time and was not flat.

    Args:
        lives: samples by process.
        objects: the same of blocks of Python objects, with the second.
        messages: that came in that time.
    """
    found = []
    for name, samples in lives.items():
        if any(sample.anonymous_bytes > _MOST_BYTES for sample in samples):
            found.append(f"{name} had more than {_MOST_BYTES / 2**20:g} MiB")
        if not lived_through([sample.at_s for sample in samples], from_s=from_s, until_s=until_s):
            continue
        inside = [sample for sample in samples if from_s <= sample.at_s <= until_s]
        memory = memory_growth(samples, from_s=from_s, until_s=until_s)
        if memory is not None and memory.total > _BYTES_AT_ALL + _BYTES_PER_MESSAGE * messages:
            found.append(f"{name} grew by {memory.total / 2**20:.1f} MiB in {memory.over_s:.0f} s")
        descriptors = growth([(sample.at_s, sample.descriptors) for sample in inside])
        if descriptors is not None and descriptors.total > _DESCRIPTORS:
            found.append(f"{name} has {descriptors.total:.1f} descriptors more after {descriptors.over_s:.0f} s")
    for name, counts in objects.items():
        if not lived_through([at_s for at_s, _ in counts], from_s=from_s, until_s=until_s):
            continue
        more = growth([(at_s, count) for at_s, count in counts if from_s <= at_s <= until_s])
        if more is not None and more.total > _OBJECTS_AT_ALL + _OBJECTS_PER_MESSAGE * messages:
            found.append(f"{name} has {more.total:.0f} more blocks of objects after {more.over_s:.0f} s")
    return found


def _sizes(path: Path) -> dict[str, int]:
    """Return the figures of a file of the kernel with lines like ``Rss:  1234 kB``, in bytes."""
    sizes = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            sizes[name] = int(rest[:-3]) * _KIB
    return sizes
