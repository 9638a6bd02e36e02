"""The programs in docs/messages.md do what the text around them says."""

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import poolnet
from poolnet import HistoryEntry, PoolNet

DOCUMENT = (Path(__file__).parent.parent / "docs" / "messages.md").read_text(encoding="utf-8")


def program(name: str) -> Any:
    """Return the function of that name that the document shows."""
    names: dict[str, Any] = {"poolnet": poolnet}
    for code in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL):
        exec(compile(code, "messages.md", "exec"), names)
    return names[name]


@asynccontextmanager
async def open_pool(home: Path) -> AsyncIterator[PoolNet]:
    with trio.fail_after(30):
        async with poolnet.open_node(home, listen=("127.0.0.1", 0)) as node:
            await node.create_pool("garden")
            async with node.join("garden", name="Ada") as pool:
                yield pool


def texts_of(entries: Iterable[Any]) -> list[str | None]:
    """Return what messages say, without the notices between them."""
    return [entry.text for entry in entries if isinstance(entry, HistoryEntry)]


async def test_the_feed_shows_the_newest_messages_and_the_announcement_that_counts(tmp_path: Path) -> None:
    show, shown = trio.open_memory_channel[tuple[HistoryEntry | None, list[str | None]]](1000)

    def draw(pinned: HistoryEntry | None, entries: Iterable[Any]) -> None:
        show.send_nowait((pinned, texts_of(entries)))

    async with open_pool(tmp_path) as pool, trio.open_nursery() as nursery:
        await pool.announce("meet at five")
        nursery.start_soon(program("follow"), pool, draw, 3)
        for number in range(5):
            await pool.send(str(number))
        async for pinned, texts in shown:
            if texts == ["2", "3", "4"]:
                assert pinned is not None
                assert pinned.text == "meet at five"
                break
        nursery.cancel_scope.cancel()


async def test_a_view_pages_back_to_the_beginning_three_pages_at_a_time(tmp_path: Path) -> None:
    seen: list[list[str | None]] = []
    async with open_pool(tmp_path) as pool:
        ids = [await pool.send(str(number)) for number in range(20)]
        go_back = program("back_to_the_beginning")
        await go_back(pool, lambda entries: seen.append(texts_of(entries)), ids[15], 4)
    assert seen[0] == ["14", "15", "16", "17"]
    assert seen[-1] == [str(number) for number in range(12)]
    assert {text for page in seen for text in page} == {str(number) for number in range(18)}


async def test_a_program_finds_earlier_messages_of_its_own_and_hears_new_ones_once(tmp_path: Path) -> None:
    play = program("play")
    async with open_pool(tmp_path) as pool:
        await pool.send_app("chess.move", b"e4")
        await pool.send_app("chess.chat", b"well played")
        assert await play(pool, b"e5") == [b"e4", b"e5"]
        assert await pool.history.latest(10) == [], "it is not for reading"
