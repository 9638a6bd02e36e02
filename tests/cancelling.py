"""Ends whatever is under test at each of its steps, by cancelling it or by a bug in it, and looks what is left over.

A *step* is one scheduling of a task: from one checkpoint to the next. A trial is run once undisturbed, which tells how
many steps it has, then again and again, cancelled at another step each time; at last a task inside it fails at
arbitrary moments, as a bug would. After each time nothing may be left: no task, thread, descriptor or temporary file
of its, no coroutine that was never awaited and nothing that was never closed; and then the trial looks itself whether
what is on the disk is whole.

Where there are very many steps a sample of them is taken, by seed; ``POOLNET_CANCEL_CASES=0`` takes all of them,
another number so many of each kind. All of them may take an hour, so there is no time limit then (`time_limit`).
"""

import contextlib
import gc
import itertools
import logging
import os
import random
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, NoReturn

import attrs
import outcome
import pytest
import trio
import trio.testing
from conftest import leaves_of

from poolnet.errors import PoolnetError

#: What is interrupted: opens something, uses it, closes it.
Act = Callable[[], Awaitable[None]]
#: Prepares an act in an empty directory, yields it, and looks after it whether what it left is whole.
Trial = Callable[[Path], AbstractAsyncContextManager[Act]]

#: Where a trial is ended: "own" steps are those of the task that was called, "any" those of all that it started.
Ending = Literal["cancelled at an own step", "cancelled at any step", "a bug at any step"]

#: How many of each.
CASES: dict[Ending, int] = {"cancelled at an own step": 12, "cancelled at any step": 5, "a bug at any step": 5}
#: ... and of what takes a while each time.
FEW: dict[Ending, int] = {"cancelled at an own step": 6, "cancelled at any step": 3, "a bug at any step": 3}
_CASES_VARIABLE = "POOLNET_CANCEL_CASES"
#: Names of what exists only while something is being written, or is open.
_UNFINISHED = re.compile(
    r"\..+\.[0-9a-f]{8}|.*\.(new|ring|spool|nodes|journal|part|spill|tmp)|.*-(wal|shm|journal)|control\.sock"
)
#: How long (of the clock of the test) anything may take; what takes longer hangs.
_PATIENCE_S = 120.0
#: How long the other end of a connection may take to notice that this one is closed: a handshake is given 5 s.
_HEARD_S = 6.0

_inside: ContextVar["_Interruption | None"] = ContextVar("_inside", default=None)


class Bug(Exception):
    """What no code expects."""


def time_limit(usual_s: float) -> pytest.MarkDecorator:
    """Return the mark of a test that takes a sample of the steps in this time; none is given to who takes all."""
    return pytest.mark.timeout(0 if os.environ.get(_CASES_VARIABLE) == "0" else usual_s)


async def interrupt_everywhere(
    trial: Trial,
    directory: Path,
    *,
    seed: int = 1,
    cases: dict[Ending, int] | None = None,
    keeps: str = r"(?!)",
    counts_all: bool = False,
) -> None:
    """Run a trial, end it at each step (or at many), and make sure each time that nothing is left over.

    Args:
        trial: see `Trial`; run in an empty directory each time.
        directory: for all of them.
        seed: of the steps that are chosen.
        cases: how many steps of each kind at most, where that is not what is usual.
        keeps: a pattern of names that look unfinished and may stay: what the next start goes on with.
        counts_all: whether "any" steps are those of the world around as well.
    """
    numbers = itertools.count()
    limits = {**CASES, **({} if cases is None else cases)}

    async def run(ending: Ending, step: int | None) -> _Interruption:
        own = directory / str(next(numbers))
        own.mkdir()
        return await _run(trial, own, _Interruption(ending, step, seed, counts_all), keeps)

    gc.collect()
    gc.freeze()  # so that looking for what was never closed looks at what came since
    try:
        undisturbed = await run("cancelled at any step", None)
        for ending, limit in limits.items():
            for step in _steps(undisturbed.steps(ending), limit, random.Random(seed)):
                if not (await run(ending, step)).has_struck:
                    break
    finally:
        gc.unfreeze()


def _steps(total: int, limit: int, rng: random.Random) -> Iterable[int]:
    chosen = int(os.environ.get(_CASES_VARIABLE, limit))
    if chosen == 0 or total <= chosen:
        return itertools.count(1)
    return sorted(rng.sample(range(1, total + 1), chosen))


class _Interruption(trio.abc.Instrument):
    """Counts steps, and strikes at one of them."""

    def __init__(self, ending: Ending, step: int | None, seed: int, counts_all: bool) -> None:
        self.ending = ending
        self.has_struck = self.may_be_lost = False
        self._victim: trio.lowlevel.Task | None = None
        self._counts_all = counts_all
        self._step = step
        self._rng = random.Random(f"{seed} {step}")
        self._scope = trio.CancelScope()
        self._where = ""
        self._own_steps = self._all_steps = 0
        self._task: trio.lowlevel.Task | None = None

    def __str__(self) -> str:
        return "undisturbed" if self._step is None else f"{self.ending}: step {self._step} {self._where}"

    def steps(self, ending: Ending) -> int:
        """How many steps there were for that."""
        return self._own_steps if ending == "cancelled at an own step" else self._all_steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count; strike when it is time."""
        if not self._counts_all and not self._contains(task):
            return
        if task is self._victim:  # who is being cancelled as well may lose an error to that: closing is a checkpoint
            self.may_be_lost = task._cancel_status.effectively_cancelled
        self._all_steps += 1
        self._own_steps += task is self._task
        if not self.has_struck and self._step is not None and self.steps(self.ending) >= self._step:
            if self.ending == "a bug at any step":
                self.has_struck = self._break_one()
            else:
                self.has_struck = True
                self._scope.cancel()

    async def run(self, act: Act) -> None:
        """Run an act until its end, or its interruption."""
        self._task = trio.lowlevel.current_task()
        token = _inside.set(self)
        trio.lowlevel.add_instrument(self)
        try:
            with trio.fail_after(_PATIENCE_S), self._scope:
                await act()
        except (Bug, BaseExceptionGroup) as error:
            if not self._is_expected(error):
                raise
        else:
            assert not self._is_bug or not self.has_struck or self.may_be_lost, "the bug did not come to light"
        finally:
            trio.lowlevel.remove_instrument(self)
            _inside.reset(token)

    def tasks(self) -> list[trio.lowlevel.Task]:
        """Return the tasks that the act has started and that are there now."""
        root = trio.lowlevel.current_root_task()
        assert root is not None
        return [task for task in _tasks_below(root) if self._contains(task) and task is not self._task]

    @property
    def _is_bug(self) -> bool:
        return self.ending == "a bug at any step"

    def _contains(self, task: trio.lowlevel.Task) -> bool:
        return task.context.get(_inside) is self

    def _is_expected(self, error: BaseException) -> bool:
        """Return whether a bug came to light, maybe with what somebody had to say about it who waited for that task."""
        kinds = {type(leaf) for leaf in leaves_of(error)}
        return self._is_bug and Bug in kinds and all(issubclass(kind, Bug | PoolnetError) for kind in kinds)

    def _break_one(self) -> bool:
        """Let a task fail where it waits, unless nothing could fail there; return whether there was one."""
        blocked = [task for task in self.tasks() if task._abort_func is not None and not _waits_for_children(task)]
        for task in self._rng.sample(blocked, len(blocked)):
            assert task._abort_func is not None
            if task._abort_func(_raise_bug) is trio.lowlevel.Abort.SUCCEEDED:
                task._abort_func = None
                self._victim = task
                self._where = " > ".join(frame.f_code.co_name for frame, _ in task.iter_await_frames())
                trio.lowlevel.reschedule(task, outcome.capture(_raise_bug))
                return True
        return False


def _raise_bug() -> NoReturn:
    raise Bug("a bug")


def _waits_for_children(task: trio.lowlevel.Task) -> bool:
    return any(nursery._parent_waiting_in_aexit for nursery in task.child_nurseries)


def _tasks_below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield child
            yield from _tasks_below(child)


async def _run(trial: Trial, directory: Path, interruption: _Interruption, keeps: str) -> _Interruption:
    """Run one case in an empty directory."""
    try:
        async with trial(directory) as act:
            with _noticing_leftovers(interruption):
                before = _look()
                await interruption.run(act)
                left = await _beyond(before)
            assert not left, f"left over: {left}"
            assert not interruption.tasks(), f"tasks are left: {interruption.tasks()}"
            assert not (files := _unfinished(directory, keeps)), f"files are left: {files}"
        left = await _beyond(before)
        assert not left, f"left over in the world around: {left}"
    except BaseException as error:
        error.add_note(str(interruption))
        raise
    return interruption


async def _beyond(before: "_Found") -> list[str]:
    """Return what stays open and was not before.

    The world around may yet have to hear of the end of the act, and even open something for a moment meanwhile (a link
    that comes up and ends at once begins to dial a lane). So the first look that finds nothing counts, and none after.
    """
    await trio.testing.wait_all_threads_completed()
    with trio.move_on_after(_HEARD_S):
        while _look().beyond(before):
            await trio.sleep(0.1)
            await trio.testing.wait_all_threads_completed()
        return []
    return _look().beyond(before)


@attrs.frozen
class _Found:
    """What a process has open."""

    descriptors: dict[str, str]
    temporary: frozenset[str]
    threads: frozenset[str]

    def beyond(self, other: "_Found") -> list[str]:
        """Return what is here and not there."""
        opened = [f"{number}: {what}" for number, what in self.descriptors.items() - other.descriptors.items()]
        return [*opened, *(self.temporary - other.temporary), *(self.threads - other.threads)]


def _look() -> _Found:
    gc.collect()
    descriptors = {}
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):  # that of the directory itself
            descriptors[number] = os.readlink(f"/proc/self/fd/{number}")
    threads = frozenset(thread.name for thread in threading.enumerate() if not _is_trios(thread))
    return _Found(descriptors, frozenset(os.listdir(tempfile.gettempdir())), threads)


def _is_trios(thread: threading.Thread) -> bool:
    """Return whether a thread is one of those that trio keeps for whoever needs one next."""
    return thread.name.startswith("Trio thread") or " from " in thread.name


@contextmanager
def _noticing_leftovers(interruption: _Interruption) -> Iterator[None]:
    """Fail if something was never awaited or closed, or went wrong where nobody could be told."""
    strange: list[object] = []
    errors = _Errors(interruption, strange)
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: strange.append((args.exc_value, args.object))
    logging.getLogger().addHandler(errors)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        strange += [warning.message for warning in caught]
    finally:
        sys.unraisablehook = hook
        logging.getLogger().removeHandler(errors)
    assert not strange, strange


class _Errors(logging.Handler):
    """Keeps what is logged as an error; of a bug it is noted that it was."""

    def __init__(self, interruption: _Interruption, kept: list[object]) -> None:
        super().__init__(logging.ERROR)
        self._interruption = interruption
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        error = record.exc_info and record.exc_info[1]
        if error and any(isinstance(leaf, Bug) for leaf in leaves_of(error)):
            self._interruption.may_be_lost = True
        else:
            self._kept.append(record.getMessage())


def _unfinished(directory: Path, keeps: str) -> list[str]:
    """Return what is in a directory only while something is under way."""
    names = (path for path in directory.rglob("*") if not path.is_dir())
    return [
        str(path.relative_to(directory))
        for path in names
        if _UNFINISHED.fullmatch(path.name) and not re.fullmatch(keeps, path.name)
    ]
