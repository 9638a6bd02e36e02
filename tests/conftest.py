"""Fixtures that several test modules share."""

import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio
from trio.testing import MockClock

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("poolnet", deadline=None, print_blob=True)
hypothesis.settings.load_profile("poolnet")

# A shell starts background jobs with Ctrl-C ignored, and processes hand that on; the programs under test must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """A clock that jumps to the next deadline whenever every task waits.

    It cannot see that a thread is at work, so what normally runs in threads (disk, database) runs at once.
    """

    async def run_here(function: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    return MockClock(autojump_threshold=0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Below a report of nested exception groups, show what was at the bottom of them."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, BaseExceptionGroup):
        for error in leaves_of(call.excinfo.value):
            report.sections.append(("at the bottom", "".join(traceback.format_exception(error)[-8:])))
    return report


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions inside nested groups."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from leaves_of(member)
    else:
        yield error


@pytest.fixture
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have temporary files made where nobody else makes any."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))


@pytest.fixture
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing wait for the disk, for tests that open and close a lot."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
