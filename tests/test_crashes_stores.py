"""Every store, killed or cut off from power at any of its operations, or on a disk that is full or fails.

The work of a store is a list of steps (tests/faulty_disk). After a kill it is as it was after the last step that
returned, or the one under way; after a power cut, at least as after the last step that promised to be on the disk. What
fails says so with `StoreError`, and works again once the disk does. `POOLNET_CRASH_CASES` is how many points are tried
of each kind (all of them: 0); which ones is drawn from a seed.
"""

import errno
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from faulty_disk import shim
from faulty_disk.fork_server import ForkServer, open_fork_server
from faulty_disk.power_cut import Operation, read_log
from faulty_disk.shim import Action, Fault, Kind
from faulty_disk.subjects import SUBJECTS

CASES = int(os.environ.get("POOLNET_CRASH_CASES", "12"))
pytestmark = [
    pytest.mark.skipif(not shim.can_build(), reason="CRASHES ARE NOT TESTED: this needs Linux and a C compiler, cc"),
    pytest.mark.timeout(600),
]
#: Stores that do without what they cannot write.
WITHOUT_ERRORS = frozenset({"ring"})
#: ... and what nobody opens again.
WITHOUT_RECOVERY = frozenset({"export"})
#: Of what is slow fewer points are tried: this part of them.
SLOW = {"files": 4}
NO_FAULT = attrs.astuple(Fault())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    library = shim.build(tmp_path_factory.mktemp("shim"))
    with open_fork_server(library) as server:
        yield server


@attrs.frozen
class Recorded:
    """The work of a subject on a good disk: what was seen before it and after each step, and its operations."""

    name: str
    directory: Path
    log: Path
    states: list[Any]
    operations: list[Operation]

    def points(self, seed: int, kinds: Kind = shim.ALL, count: int = CASES) -> list[int]:
        """Return the numbers of operations of some kinds: all, or so many of them."""
        numbers = [number for number, operation in enumerate(self.operations, start=1) if operation.kind & kinds]
        count = -(-count // SLOW.get(self.name, 1))
        chosen = numbers if not CASES else random.Random(seed).sample(numbers, min(count, len(numbers)))
        return sorted(chosen)

    def states_after(self, done: int) -> list[Any]:
        """Return what may be found after a crash when so many steps were done."""
        return self.states[done : done + 2]


@pytest.fixture(scope="module", params=list(SUBJECTS))
def recorded(request: pytest.FixtureRequest, server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    top = tmp_path_factory.mktemp("recorded").resolve()
    states = server.run("faulty_disk.trials:list_states", request.param, str(top / "states")).result
    work, log = top / "work", top / "log"
    server.run("faulty_disk.trials:work_once", request.param, str(work), NO_FAULT, str(log))
    operations = [operation for operation in read_log(log) if operation.kind != Kind.NOTE]
    assert len(operations) > len(states)
    return Recorded(request.param, work, log, states, operations)


def kill(server: ForkServer, recorded: Recorded, directory: Path, point: int) -> int:
    """Do the work until it is killed at an operation; return how many steps were done."""
    fault = Fault(Action.KILL if point % 2 else Action.KILL_TORN, point)
    outcome = server.run("faulty_disk.trials:work_once", recorded.name, str(directory), attrs.astuple(fault))
    assert outcome.signal == signal.SIGKILL
    return len(outcome.told)


def test_a_store_that_is_killed_has_all_that_it_has_done(
    server: ForkServer, recorded: Recorded, tmp_path: Path
) -> None:
    for point in recorded.points(seed=1):
        directory = tmp_path.resolve() / str(point)
        states = recorded.states_after(kill(server, recorded, directory, point))
        server.run("faulty_disk.trials:recover", recorded.name, str(directory), NO_FAULT, states)


def test_a_store_that_is_killed_goes_on_with_its_work_and_leaves_nothing_behind(
    server: ForkServer, recorded: Recorded, tmp_path: Path
) -> None:
    for point in recorded.points(seed=8, count=CASES // 2):
        directory = tmp_path.resolve() / str(point)
        done = kill(server, recorded, directory, point)
        server.run("faulty_disk.trials:go_on", recorded.name, str(directory), done, recorded.states)


def test_a_store_that_is_killed_again_while_it_recovers_has_it_all_the_same(
    server: ForkServer, recorded: Recorded, tmp_path: Path
) -> None:
    killed = 0
    for point in recorded.points(seed=2, count=CASES // 4):
        directory = tmp_path.resolve() / str(point)
        states = recorded.states_after(kill(server, recorded, directory, point))
        for number in (1, 2, 4, 7, 11, 16):
            fault = attrs.astuple(Fault(Action.KILL, number))
            outcome = server.run("faulty_disk.trials:recover", recorded.name, str(directory), fault, states)
            killed += outcome.signal == signal.SIGKILL
        server.run("faulty_disk.trials:recover", recorded.name, str(directory), NO_FAULT, states)
    assert killed or recorded.name in WITHOUT_RECOVERY


def test_a_store_has_what_was_on_the_disk_when_the_power_went(server: ForkServer, recorded: Recorded) -> None:
    arguments = (recorded.name, str(recorded.directory), str(recorded.log), recorded.states, recorded.points(seed=3))
    assert server.run("faulty_disk.trials:cut_power_everywhere", *arguments).result


@pytest.mark.parametrize("action", [Action.FAIL_ONCE, Action.SHORT_THEN_FAIL_ON])
def test_a_store_on_a_full_disk_says_so_and_works_again_when_there_is_room(
    server: ForkServer, recorded: Recorded, tmp_path: Path, action: Action
) -> None:
    points = recorded.points(seed=4 + action, kinds=shim.GROWING, count=CASES // 2)
    faults = [Fault(action, point, errno.ENOSPC, shim.GROWING) for point in points]
    assert fail(server, recorded, tmp_path, faults) or recorded.name in WITHOUT_ERRORS


def test_a_store_on_a_failing_disk_says_so_and_works_again_when_it_is_mended(
    server: ForkServer, recorded: Recorded, tmp_path: Path
) -> None:
    fail(server, recorded, tmp_path, [Fault(Action.FAIL_ONCE, point, errno.EIO) for point in recorded.points(seed=6)])


def test_a_sync_that_failed_is_never_taken_for_one(server: ForkServer, recorded: Recorded, tmp_path: Path) -> None:
    points = recorded.points(seed=7, kinds=shim.SYNCS)
    fail(server, recorded, tmp_path, [Fault(Action.FAIL_ONCE, point, errno.EIO, shim.SYNCS) for point in points])


def fail(server: ForkServer, recorded: Recorded, tmp_path: Path, faults: list[Fault]) -> int:
    """Do the work with each of these faults; return how often the store said that something failed."""
    failures = 0
    for fault in faults:
        directory, log = tmp_path.resolve() / str(fault.number), tmp_path / f"{fault.number}.log"
        arguments = (recorded.name, str(directory), attrs.astuple(fault), str(log), recorded.states)
        failures += server.run("faulty_disk.trials:work_on_a_failing_disk", *arguments).result
    return failures
