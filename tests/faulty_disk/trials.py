"""What is done to a subject, each function in a fork of its own (see fork_server.py).

Whatever runs in threads otherwise runs at once, time jumps, and tasks take turns in an order that follows from a seed,
so that the same work is the same operations.
"""

import contextlib
import os
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio._core._run as _run_of_trio
from trio.testing import MockClock

from faulty_disk import shim
from faulty_disk.fork_server import tell
from faulty_disk.power_cut import LEAST, MOST, NAMES, Choice, Operation, cut_power, read_log
from faulty_disk.shim import Fault, Kind
from faulty_disk.subject import Step, Subject
from faulty_disk.subjects import SUBJECTS
from poolnet.errors import DiskFull, StoreError

T = TypeVar("T")

#: How often a store may be opened anew after it refused to go on.
_MAX_OPENINGS = 6
#: Seeds of what is between the least and the most that a power cut leaves.
_SEEDS = 2
#: After how many steps of those that were done on a failing disk the power is cut, and after the last.
_STEPS_WITH_CUTS = 4


def list_states(name: str, directory: str) -> list[Any]:
    """Do the work of a subject on a good disk; return what was seen before it and after each step."""

    Path(directory).mkdir()

    async def work() -> list[Any]:
        subject = SUBJECTS[name]
        async with subject.open(Path(directory)) as store:
            states = [await subject.observe(store)]
            for step in subject.steps:
                await step.work(store)
                states.append(await subject.observe(store))
        return states

    return _run(work)


def work_once(name: str, directory: str, fault: Sequence[int], log: str | None = None) -> int:
    """Do the work with a fault that kills; tell which steps are done; return how many operations it took."""

    async def work() -> int:
        subject = SUBJECTS[name]
        with _armed(directory, Fault(*fault), log):
            async with subject.open(Path(directory)) as store:
                for step in subject.steps:
                    await step.work(store)
                    _told_done(step)
            return shim.count()

    return _run(work)


def recover(name: str, directory: str, fault: Sequence[int], states: Sequence[Any]) -> int:
    """Open a subject after a crash, with a fault that kills; make sure that it is in one of these states, or between.

    Returns:
        How many operations that took.
    """
    subject = SUBJECTS[name]

    async def work() -> int:
        with _armed(directory, Fault(*fault), None):
            seen = await _look(subject, Path(directory))
            operations = shim.count()
        _check_seen(subject, seen, states)
        _check_left_over(subject, Path(directory), [*subject.belongs, *subject.unfinished])
        return operations

    return _run(work)


def go_on(name: str, directory: str, done: int, states: Sequence[Any]) -> None:
    """Do what is left of the work after a crash; make sure that all is there then, and nothing else."""
    _go_on(SUBJECTS[name], Path(directory), done, states)


def work_on_a_failing_disk(name: str, directory: str, fault: Sequence[int], log: str, states: Sequence[Any]) -> int:
    """Do the work with a fault that is an error, and go on as programs do; return how often the store said so.

    A step that fails is tried again once the disk is mended; a store that refuses then is opened anew. In the end all
    is there, and whatever was done durably after the fault survives a power cut.
    """
    subject, root = SUBJECTS[name], Path(directory)
    kind = DiskFull if Fault(*fault).error == 28 else StoreError

    async def work() -> int:
        with _armed(directory, Fault(*fault), log):
            failures = await _do_all(subject, root, kind)
            shim.mend()
            seen = await _look(subject, root)
        _check_seen(subject, seen, states[-1:])
        _check_left_over(subject, root, subject.belongs)
        return failures

    failures = _run(work)
    _cut_power_after_steps(subject, root, Path(log), states)
    return failures


def cut_power_everywhere(name: str, directory: str, log: str, states: Sequence[Any], points: Sequence[int]) -> int:
    """For each of these numbers of operations, cut the power there in several ways, and look; return how many ways."""
    operations = read_log(Path(log))
    subject, root = SUBJECTS[name], Path(directory)
    places = [place for place, operation in enumerate(operations) if operation.kind != Kind.NOTE]
    for point in points:
        stop = places[point - 1] + 1
        for choice in (LEAST, NAMES, MOST, *(Choice(1, 0.5, seed) for seed in range(point, point + _SEEDS))):
            _cut_and_look(subject, root, operations[:stop], choice, states)
    return len(points) * (3 + _SEEDS)


def _go_on(subject: Subject[Any], root: Path, done: int, states: Sequence[Any]) -> None:
    async def work() -> None:
        with _armed(str(root), Fault(), None):  # so that nothing waits for the real disk
            async with subject.open(root) as store:
                for step in subject.steps[done:]:
                    await step.work(store)
            seen = await _look(subject, root)
        _check_seen(subject, seen, states[-1:])
        _check_left_over(subject, root, subject.belongs)

    _run(work)


def _cut_power_after_steps(subject: Subject[Any], root: Path, log: Path, states: Sequence[Any]) -> None:
    operations = read_log(log)
    steps = [place for place, operation in enumerate(operations, start=1) if operation.kind == Kind.NOTE]
    for place in sorted({*random.Random(len(operations)).sample(steps, min(_STEPS_WITH_CUTS, len(steps))), steps[-1]}):
        _cut_and_look(subject, root, operations[:place], LEAST, states)


def _cut_and_look(
    subject: Subject[Any], root: Path, operations: Sequence[Operation], choice: Choice, states: Sequence[Any]
) -> None:
    """Make up a disk in the place of the one that was worked on, as what is on it may say where it is."""
    shutil.rmtree(root, ignore_errors=True)
    cut_power(operations, root, root, choice)
    done = [operation.path for operation in operations if operation.kind == Kind.NOTE]
    names = [step.name for step in subject.steps]
    durable = [names.index(name) + 1 for name in done if subject.steps[names.index(name)].is_durable]
    kept = max(durable, default=0)
    try:
        with _armed(str(root), Fault(), None):  # so that nothing waits for the real disk
            seen = _run(lambda: _look(subject, root))
        _check_seen(subject, seen, states[kept : len(done) + 2])
        _check_left_over(subject, root, [*subject.belongs, *subject.unfinished])
        _go_on(subject, root, kept, states)
    except BaseException as exc:
        exc.add_note(f"after {len(operations)} records of the log, {choice}, done: {done}")
        raise


async def _do_all(subject: Subject[T], directory: Path, kind: type[StoreError]) -> int:
    """Do all steps, whatever fails on the way; return how often something did."""
    failures, steps = 0, list(subject.steps)
    for _ in range(_MAX_OPENINGS):
        try:
            async with subject.open(directory) as store:
                while steps:
                    try:
                        await steps[0].work(store)
                    except StoreError as exc:
                        failures += 1
                        _check_error(exc, kind)
                        shim.mend()
                        await steps[0].work(store)
                    _told_done(steps.pop(0))
        except StoreError as exc:
            failures += 1
            shim.mend()
            last = exc
        else:
            return failures
    raise AssertionError(f"it does not work again: {last!r}") from last


def _check_error(error: StoreError, kind: type[StoreError]) -> None:
    assert isinstance(error, kind), f"a full disk is called {error!r}"


async def _look(subject: Subject[Any], directory: Path) -> Any:
    async with subject.open(directory) as store:
        return await subject.observe(store)


def _check_seen(subject: Subject[Any], seen: Any, states: Sequence[Any]) -> None:
    expected = "\n".join(map(str, states))
    assert seen in states or subject.may_be(seen, states), f"this was found:\n{seen}\nand none of these:\n{expected}"


def _check_left_over(subject: Subject[Any], directory: Path, patterns: Sequence[str]) -> None:
    found = [str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()]
    strange = [path for path in found if not any(fnmatch(path, pattern) for pattern in patterns)]
    assert not strange, f"nobody needs these: {strange}"


def _told_done(step: Step[Any]) -> None:
    shim.note(step.name)
    tell(step.name)


@contextlib.contextmanager
def _armed(directory: str, fault: Fault, log: str | None) -> Iterator[None]:
    Path(directory).mkdir(exist_ok=True)
    descriptor = -1 if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    shim.arm(Path(directory), fault, descriptor)
    try:
        yield
    finally:
        shim.disarm()


def _run(function: Callable[[], Awaitable[T]]) -> T:
    async def run_here(function: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)

    trio.to_thread.run_sync = run_here  # type: ignore[assignment]
    _run_of_trio._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run_of_trio._r.seed(0)
    return trio.run(function, clock=MockClock(autojump_threshold=0))
