"""One mutant against its tests, in a process of its own that is forked from one where everything else is loaded.

The mutant lives in the memory of that process only. It has some processor time and some memory; a mutant that needs
more is one that the tests would notice.
"""

import importlib.abc
import importlib.machinery
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

import attrs

# What all tests need and no mutant is in is imported here, once.
import hypothesis
import pytest
import trio.testing  # noqa: F401

from mutants.changes import Mutant

_MAX_BYTES: Final = 3 * 2**30
#: What a trial may take beyond several times what its tests take otherwise: most of it is imports.
_EXTRA_CPU_S: Final = 20
#: A mutant that waits for ever takes no processor time.
_MAX_WALL_S: Final = 300.0
_POLL_S: Final = 0.02


class Verdict(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    UNREACHED = "unreached"


@attrs.frozen
class Trial:
    """A mutant and its tests; `expected_s` is what they take without it."""

    mutant: Mutant
    tests: Sequence[str]
    expected_s: float


def run_trials(
    trials: Iterable[Trial], *, tree: Path, jobs: int, deadline: float, done: Callable[[Trial, Verdict], None]
) -> None:
    """Run trials side by side and tell of each when it is done; begin none after the `deadline` (`time.monotonic`)."""
    waiting = iter(trials)
    running: dict[int, tuple[Trial, float]] = {}
    while True:
        while len(running) < jobs and time.monotonic() < deadline and (trial := next(waiting, None)) is not None:
            if trial.tests:
                running[_start(trial, tree)] = (trial, time.monotonic())
            else:
                done(trial, Verdict.UNREACHED)
        if not running:
            return
        for pid, (trial, begin) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                done(trial, _verdict(status))
            elif time.monotonic() - begin > _MAX_WALL_S:
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _verdict(status: int) -> Verdict:
    """Return what an exit status means: tests failed, could not even be imported, or took more than they may."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0 or code in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        return Verdict.KILLED
    if code == pytest.ExitCode.OK:
        return Verdict.SURVIVED
    raise RuntimeError(f"tests were not run: {pytest.ExitCode(code).name}")


def _start(trial: Trial, tree: Path) -> int:
    assert "poolnet" not in sys.modules, "what is loaded before the fork is not changed"
    pid = os.fork()
    if pid == 0:
        _run_in_child(trial, tree)
    return pid


def _run_in_child(trial: Trial, tree: Path) -> NoReturn:
    code = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(silence, descriptor)
        cpu_s = int(_EXTRA_CPU_S + 5 * trial.expected_s)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
        resource.setrlimit(resource.RLIMIT_DATA, (_MAX_BYTES, _MAX_BYTES))
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        sys.meta_path.insert(0, _MutantFinder(trial.mutant, tree))
        files = dict.fromkeys(test.partition("::")[0] for test in trial.tests)
        options = (
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:cov",
            "--hypothesis-seed=0",
            "--tb=no",
            "--assert=plain",
        )
        code = int(pytest.main([*options, *files], plugins=[_Selection(trial.tests)]))
    finally:
        os._exit(code)  # whatever a mutant leaves running ends here


class _Selection:
    """A plugin of pytest: only these tests, in this order, and no search for the smallest example that fails."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._places = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._places]
        items[:] = sorted(chosen, key=lambda item: self._places[item.nodeid])

    @pytest.hookimpl(trylast=True)
    def pytest_collection(self) -> None:
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutants", deadline=None, database=None, phases=phases)
        hypothesis.settings.load_profile("mutants")


class _MutantFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutant to whoever imports its module."""

    def __init__(self, mutant: Mutant, tree: Path) -> None:
        self._name = mutant.path.removesuffix(".py").replace("/", ".")
        self._path = str(tree / mutant.path)
        self._source = mutant.source

    def find_spec(self, fullname: str, *_others: Any) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=self._path)

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self._path
        exec(compile(self._source, self._path, "exec"), vars(module))
