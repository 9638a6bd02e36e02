"""The examples in the docstrings of the services are run as they stand."""

import inspect
import re
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import poolnet
from poolnet.chunk_cache import ChunkCache
from poolnet.events import MessageReceived
from poolnet.file_manager import FileManager
from poolnet.message_db import MessageDB
from poolnet.node import open_node
from poolnet.pool_net import PoolNet
from poolnet.service import open_service_nursery

_EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)
Main = Callable[..., Awaitable[None]]


@attrs.frozen
class Service:
    """Something whose docstring holds an example: a coroutine function `main`.

    `run` calls it with what its reader would have at hand; it runs in an empty directory.
    """

    documented: Any
    run: Callable[[Main], Awaitable[None]]


async def run_alone(main: Main) -> None:
    await main()


async def run_with_a_home(main: Main) -> None:
    await main(Path("home"))


async def run_as_second_member(main: Main) -> None:
    """Run an example that joins a pool by its invite and stays, until the first member has heard of it."""
    async with open_node(Path("first"), listen=("127.0.0.1", 0)) as node:
        invite = await node.create_pool("garden")
        async with (
            node.join("garden", name="Bea") as pool,
            pool.subscribe() as events,
            open_service_nursery() as nursery,
        ):
            nursery.start_soon(main, Path("home"), invite)
            async for event in events:
                if isinstance(event, MessageReceived):
                    assert event.text == "hello"
                    return


#: Every service; add yours. (SyncServer's is in the style of doctest, and tests/test_sync_server.py runs it.)
SERVICES = [
    Service(MessageDB, run_alone),
    Service(FileManager, run_alone),
    Service(ChunkCache, run_alone),
    Service(open_node, run_with_a_home),
    Service(PoolNet, run_as_second_member),
]


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.documented.__name__)
async def test_the_example_in_the_docstring_works(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = _EXAMPLE.search(inspect.getdoc(service.documented) or "")
    assert found is not None, f"{service.documented.__name__} has no example in its docstring"
    names: dict[str, Any] = {"poolnet": poolnet, "trio": trio, "Path": Path}
    code = compile(textwrap.dedent(found[1]), f"<example of {service.documented.__name__}>", "exec")
    exec(code, names)
    with trio.fail_after(30):
        await service.run(names["main"])
