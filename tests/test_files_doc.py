"""The programs in docs/files.md do what the text around them says."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import poolnet
from poolnet import FileOffered, PoolNet

DOCUMENT = (Path(__file__).parent.parent / "docs" / "files.md").read_text(encoding="utf-8")


def program(name: str) -> Any:
    """Return the function of that name that the document shows."""
    names: dict[str, Any] = {"poolnet": poolnet}
    for code in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL):
        exec(compile(code, "files.md", "exec"), names)
    return names[name]


@asynccontextmanager
async def open_two(home: Path) -> AsyncIterator[tuple[PoolNet, PoolNet]]:
    """Open a pool of two devices that have met."""
    with trio.fail_after(60):
        async with (
            poolnet.open_node(home / "ada", listen=("127.0.0.1", 0)) as ada,
            poolnet.open_node(home / "bob", listen=("127.0.0.1", 0)) as bob,
        ):
            invite = await ada.create_pool("garden")
            async with ada.join("garden", name="Ada") as one, bob.join(invite, name="Bob") as other:
                yield one, other


async def hear_of(count: int, events: AsyncIterator[Any]) -> None:
    """Wait until so many things were offered."""
    async for event in events:
        count -= isinstance(event, FileOffered)
        if not count:
            return


@pytest.fixture
def things(tmp_path: Path) -> dict[str, Path]:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear all")
    trip = tmp_path / "trip"
    (trip / "photos").mkdir(parents=True)
    (trip / "photos" / "sea.txt").write_text("blue")
    (trip / "left-out.tmp").write_text("nothing")
    picture = tmp_path / "sunset.jpg"
    picture.write_bytes(b"not a picture that anybody knows, but shown all the same")
    return {"letter": letter, "trip": trip, "picture": picture}


async def test_what_is_shared_can_be_fetched_and_pictures_are_kept(tmp_path: Path, things: dict[str, Path]) -> None:
    out, album = tmp_path / "out", tmp_path / "album"
    out.mkdir()
    album.mkdir()
    kept = trio.Event()
    async with open_two(tmp_path) as (ada, bob), bob.subscribe() as events, trio.open_nursery() as nursery:
        nursery.start_soon(program("keep_pictures"), bob, album, lambda _path: kept.set())
        await trio.testing.wait_all_tasks_blocked()
        await program("share")(ada, **things)
        await hear_of(3, events)
        paths = await program("fetch_all")(bob, out)
        await kept.wait()
        nursery.cancel_scope.cancel()
    assert sorted(path.name for path in paths) == ["letter.txt", "trip"]
    assert (out / "letter.txt").read_text() == "Dear all"
    assert (out / "trip" / "photos" / "sea.txt").read_text() == "blue"
    assert not (out / "trip" / "left-out.tmp").exists()
    assert (album / "sunset.jpg").read_bytes() == things["picture"].read_bytes()


async def test_a_stream_is_read_as_it_was_sent(tmp_path: Path) -> None:
    lines = [f"{number}\n" for number in range(1000)]
    heard = bytearray()
    async with open_two(tmp_path) as (ada, bob), bob.subscribe() as events, trio.open_nursery() as nursery:
        nursery.start_soon(program("publish"), ada, lines)
        async for event in events:
            if isinstance(event, FileOffered) and event.kind == "stream":
                await program("follow")(bob, event.file_id, heard.extend)
                break
    assert heard.decode() == "".join(lines)
