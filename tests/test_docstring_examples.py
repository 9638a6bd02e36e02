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

from poolnet.file_manager import FileManager
from poolnet.message_db import MessageDB

_EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@attrs.frozen
class Service:
    """A class whose docstring holds an example: a coroutine function `main`.

    `run` calls it: without arguments if it takes none, otherwise with what a reader would have at hand.
    """

    documented: Any
    run: Callable[[Callable[..., Awaitable[None]]], Awaitable[None]]


async def run_alone(main: Callable[..., Awaitable[None]]) -> None:
    await main()


#: Every service; add yours.
SERVICES = [
    Service(MessageDB, run_alone),
    Service(FileManager, run_alone),
]


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.documented.__name__)
async def test_the_example_in_the_docstring_works(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = _EXAMPLE.search(inspect.getdoc(service.documented) or "")
    assert found is not None, f"{service.documented.__name__} has no example in its docstring"
    names: dict[str, Any] = {}
    code = compile(textwrap.dedent(found[1]), f"<example of {service.documented.__name__}>", "exec")
    exec(code, names)
    with trio.fail_after(30):
        await service.run(names["main"])
