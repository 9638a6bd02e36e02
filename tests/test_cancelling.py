"""What ends everything at each of its steps (cancelling.py) finds whatever is left over, and blames nobody in vain."""

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from cancelling import Act, Trial, interrupt_everywhere
from trio.testing import MockClock

pytestmark = pytest.mark.usefixtures("own_temporary_directory")


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """Descriptors that are closed when a test is over, if they are open then."""
    opened: list[int] = []
    yield opened
    for descriptor in opened:
        with suppress(OSError):
            os.close(descriptor)


def trial_of(act: Callable[[Path], Awaitable[None]]) -> Trial:
    """Return a trial that looks after nothing itself."""

    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        yield lambda: act(directory)

    return trial


async def test_who_closes_all_at_every_end_passes(tmp_path: Path, autojump_clock: MockClock) -> None:
    runs: list[Path] = []

    async def act(directory: Path) -> None:
        runs.append(directory)
        with (directory / "x.tmp").open("wb") as file:
            try:
                await trio.sleep(1)
            finally:
                os.unlink(file.name)

    await interrupt_everywhere(trial_of(act), tmp_path)
    assert len(runs) > 2


async def test_a_descriptor_that_stays_open_when_cancelled_is_found(
    tmp_path: Path, autojump_clock: MockClock, pipes: list[int]
) -> None:
    async def act(directory: Path) -> None:
        opened = os.pipe()
        pipes.extend(opened)
        await trio.sleep(1)
        for descriptor in opened:
            os.close(descriptor)

    with pytest.raises(AssertionError, match=r"left over: .*pipe"):
        await interrupt_everywhere(trial_of(act), tmp_path)


async def test_a_file_that_is_not_removed_after_a_bug_is_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def work(directory: Path) -> None:
        path = directory / "x.tmp"
        path.touch()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            path.unlink()
            raise

    async def act(directory: Path) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, directory)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    with pytest.raises(AssertionError, match="files are left") as caught:
        await interrupt_everywhere(trial_of(act), tmp_path)
    assert any("a bug at any step" in note for note in caught.value.__notes__)


async def test_a_temporary_file_that_stays_is_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def act(directory: Path) -> None:
        descriptor, path = tempfile.mkstemp()
        os.close(descriptor)
        await trio.sleep(1)
        os.unlink(path)

    with pytest.raises(AssertionError, match="left over"):
        await interrupt_everywhere(trial_of(act), tmp_path)


async def test_a_coroutine_that_is_never_awaited_is_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def act_more() -> None:
        await trio.sleep(1)

    async def act(directory: Path) -> None:
        pending = act_more()
        await trio.sleep(1)
        await pending

    with pytest.raises(AssertionError, match="never awaited"):
        await interrupt_everywhere(trial_of(act), tmp_path)


async def test_a_bug_that_is_swallowed_is_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def work() -> None:
        with suppress(Exception):
            await trio.sleep_forever()

    async def act(directory: Path) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            for _ in range(3):
                await trio.sleep(1)
            nursery.cancel_scope.cancel()

    with pytest.raises(AssertionError, match="did not come to light"):
        await interrupt_everywhere(trial_of(act), tmp_path)


def trial_with_a_world(opens: Callable[[], Awaitable[None]]) -> Trial:
    """Return a trial in a world that opens something as soon as it hears of the end of the act."""

    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        is_over, has_heard = trio.Event(), trio.Event()

        async def world() -> None:
            await is_over.wait()
            await opens()
            has_heard.set()

        async def act() -> None:
            try:
                await trio.lowlevel.checkpoint()
            finally:
                is_over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(world)
            yield act
            await has_heard.wait()

    return trial


async def test_what_the_world_around_opens_for_a_moment_is_not_left_over(
    tmp_path: Path, autojump_clock: MockClock, pipes: list[int]
) -> None:
    async def open_for_a_moment() -> None:
        opened = os.pipe()
        pipes.extend(opened)
        await trio.sleep(1)
        for descriptor in opened:
            os.close(descriptor)

    await interrupt_everywhere(trial_with_a_world(open_for_a_moment), tmp_path)
    assert pipes


async def test_what_the_world_around_leaves_open_is_found(
    tmp_path: Path, autojump_clock: MockClock, pipes: list[int]
) -> None:
    async def leave_open() -> None:
        await trio.sleep(1)
        pipes.extend(os.pipe())

    with pytest.raises(AssertionError, match="in the world around"):
        await interrupt_everywhere(trial_with_a_world(leave_open), tmp_path)
