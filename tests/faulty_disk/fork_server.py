"""Runs functions in processes of their own, of which one that has imported everything is the parent: a fork a case.

The client is in the test process, the server a process with the shim preloaded, which has no threads.
"""

import contextlib
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import attrs

#: A case that takes longer hangs.
_CASE_S = 60


@attrs.frozen
class Outcome:
    """How a process ended: killed by a signal (or None), what it told before, what its function returned or raised."""

    signal: int | None
    told: list[Any]
    result: Any
    error: str | None


class ForkServer:
    """The client. Made by `open_fork_server`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def run(self, function: str, *arguments: Any) -> Outcome:
        """Call ``module:function`` in a fork, with arguments that are JSON; return how it went.

        Raises:
            AssertionError: the function raised, or the process did not end by itself and not by SIGKILL.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, arguments]).encode() + b"\n")
        self._process.stdin.flush()
        outcome = Outcome(**json.loads(self._process.stdout.readline()))
        assert outcome.error is None, f"{function}{arguments}: {outcome.error}"
        assert outcome.signal in (None, signal.SIGKILL), f"{function}{arguments}: ended by signal {outcome.signal}"
        return outcome


@contextlib.contextmanager
def open_fork_server(library: Path) -> Iterator[ForkServer]:
    """Start a server with `library` preloaded; it ends with the block."""
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        yield ForkServer(process)
    finally:
        process.communicate()  # it ends when its input does


def tell(value: Any) -> None:
    """In a case: say something that is known even if the process is killed in the next moment."""
    os.write(_told, json.dumps(["told", value]).encode() + b"\n")


_told = -1


def serve() -> None:
    """Run what comes by standard input."""
    os.environ.pop("LD_PRELOAD", None)
    logging.basicConfig(handlers=[logging.NullHandler()])
    importlib.import_module("faulty_disk.trials")
    for line in sys.stdin.buffer:
        function, arguments = json.loads(line)
        outcome = _run(function, arguments)
        sys.stdout.buffer.write(json.dumps(attrs.asdict(outcome)).encode() + b"\n")
        sys.stdout.buffer.flush()


def _run(function: str, arguments: list[Any]) -> Outcome:
    with tempfile.TemporaryFile() as answers:
        child = os.fork()
        if not child:
            _be_child(answers.fileno(), function, arguments)
        _, status = os.waitpid(child, 0)
        answers.seek(0)
        said = [json.loads(line) for line in answers]
    by_kind = {kind: value for kind, value in said if kind != "told"}
    told = [value for kind, value in said if kind == "told"]
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return Outcome(ended_by, told, by_kind.get("result"), by_kind.get("error"))


def _be_child(answers: int, function: str, arguments: list[Any]) -> NoReturn:
    global _told
    from faulty_disk import fork_server  # this one runs as __main__

    _told = fork_server._told = answers
    signal.alarm(_CASE_S)
    try:
        module, name = function.split(":")
        value = ["result", getattr(importlib.import_module(module), name)(*arguments)]
    except BaseException:
        value = ["error", traceback.format_exc()]
    os.write(answers, json.dumps(value).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    serve()
