"""Commands for the process that holds a home, through ``control.sock`` in it.

One connection carries one command, JSON lines in UTF-8:

- client: ``{"command": NAME, "params": {...}}``, then for commands that take typed lines ``{"input": TEXT}`` … and
  ``{"input": null}`` at the end of input;
- server: any number of ``{"record": {...}}``, ``{"progress": {...}}``, ``{"note": TEXT}``, at last
  ``{"exit": N, "error": {"code", "message"} | null}``.

A client that goes away cancels its command. The socket is for the home's owner only (mode 0600 in a directory of mode
0700); the process that holds the home's lock is the only one that makes it, so a stale one can be removed. A home whose
path is too long for a socket address has a symbolic link there, to a socket in a private temporary directory.
"""

import contextlib
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import trio

from poolnet_cli.outcome import DONE, FAILED, CommandFailed, Outcome, outcome_of
from poolnet_cli.reporter import Record, Reporter

logger = logging.getLogger(__name__)

SOCKET_NAME: Final = "control.sock"
#: The smallest that systems offer for a socket's path (macOS: 104 with the final zero byte).
MAX_SOCKET_PATH_BYTES: Final = 103
#: A request is at most a list of paths, as long as a command line may be.
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
#: The longest record is the list of all offers: 10 000 with two lines of text each.
MAX_OUTPUT_BYTES: Final = 16 * 1024 * 1024
#: Commands at once through one socket; a person has a few terminals, a script a few jobs.
MAX_CLIENTS: Final = 32
#: Typed lines that wait for the command.
MAX_QUEUED_LINES: Final = 64

Execute = Callable[[str, dict[str, Any], Reporter, AsyncIterator[str]], Awaitable[None]]


class _JsonLines:
    """JSON objects, one a line, over a stream; no line that comes in is longer than `max_bytes`."""

    def __init__(self, stream: trio.SocketStream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._send_lock = trio.Lock()

    async def send(self, value: Record) -> None:
        async with self._send_lock:
            await self._stream.send_all(json.dumps(value).encode() + b"\n")

    async def receive(self) -> Record | None:
        """Return the next object; None at the end, also if the other side broke off or talks something else."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > self._max_bytes:
                return None
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            value = json.loads(line)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


class _SocketReporter:
    """Passes a command's output to the client."""

    def __init__(self, lines: _JsonLines) -> None:
        self._lines = lines

    async def record(self, record: Record) -> None:
        await self._lines.send({"record": record})

    async def progress(self, record: Record) -> None:
        await self._lines.send({"progress": record})

    async def note(self, text: str) -> None:
        await self._lines.send({"note": text})


# --- the process that holds the home --------------------------------------------------------------------------------


class ControlServer:
    """Runs commands for other processes. Made by `open_control_server`."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._clients = 0
        self._is_idle = trio.Event()
        self._is_idle.set()

    async def wait_idle(self) -> None:
        """Wait until no other process's command runs here."""
        while self._clients:
            await self._is_idle.wait()

    @property
    def clients(self) -> int:
        """Commands that run here for other processes."""
        return self._clients

    async def serve_client(self, stream: trio.SocketStream) -> None:
        """Run one client's command; return when it is done or the client is gone."""
        if self._clients >= MAX_CLIENTS:
            await stream.aclose()
            return
        self._clients += 1
        self._is_idle = trio.Event()
        try:
            async with stream:
                await self._run_command(_JsonLines(stream, MAX_REQUEST_BYTES))
        finally:
            self._clients -= 1
            if not self._clients:
                self._is_idle.set()

    async def _run_command(self, lines: _JsonLines) -> None:
        request = await lines.receive()
        if request is None or not isinstance(request.get("command"), str):
            return
        send_input, receive_input = trio.open_memory_channel[str](MAX_QUEUED_LINES)
        outcome = Outcome(exit_code=FAILED, code="interrupted", message="the process that held the home has ended")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read_input, lines, send_input, nursery.cancel_scope)
                reporter = _SocketReporter(lines)
                await self._execute(request["command"], request.get("params", {}), reporter, receive_input)
                outcome = Outcome(exit_code=DONE)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # a nursery raises nothing else
            cancelled, failed = group.split(trio.Cancelled)
            if failed is not None:
                outcome = _told(request["command"], failed)
            if cancelled is not None:
                raise cancelled from None
        finally:
            with trio.move_on_after(1) as scope, contextlib.suppress(trio.BrokenResourceError):
                scope.shield = True
                await lines.send(_final(outcome))


def _told(command: str, error: BaseException) -> Outcome:
    """Return what the client is told about a command that failed."""
    outcome = outcome_of(error)
    if outcome.is_bug:
        logger.error("the command %s failed", command, exc_info=error)
    return outcome


def _final(outcome: Outcome) -> Record:
    if outcome.exit_code == DONE:
        return {"exit": DONE, "error": None}
    return {"exit": outcome.exit_code, "error": {"code": outcome.code, "message": outcome.message}}


async def _read_input(lines: _JsonLines, send: trio.MemorySendChannel[str], command: trio.CancelScope) -> None:
    """Pass typed lines on to the command; cancel it when the client goes away."""
    async with send:
        while (value := await lines.receive()) is not None:
            text = value.get("input")
            if not isinstance(text, str):
                break
            await send.send(text)
    while await lines.receive() is not None:
        pass
    command.cancel()


@contextlib.asynccontextmanager
async def open_control_server(home: Path, execute: Execute) -> AsyncIterator[ControlServer]:
    """Listen on the home's control socket while the block runs; the caller holds the home's lock.

    Raises:
        OSError: the socket cannot be made.
    """
    server = ControlServer(execute)
    with _socket_path(home) as path:
        listener = _listen(path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, server.serve_client, [listener])
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()


@contextlib.contextmanager
def _socket_path(home: Path) -> Iterator[Path]:
    """Yield where to bind; what is left of an earlier process goes away before, ours afterwards."""
    path = home / SOCKET_NAME
    _remove_socket(path)
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        target = path
    else:
        target = Path(tempfile.mkdtemp(prefix="poolnet-")) / SOCKET_NAME
        path.symlink_to(target)
    try:
        yield target
    finally:
        _remove_socket(path)


def _remove_socket(path: Path) -> None:
    if path.is_symlink():
        directory = path.readlink().parent
        if directory.name.startswith("poolnet-"):
            shutil.rmtree(directory, ignore_errors=True)
    path.unlink(missing_ok=True)


def _listen(path: Path) -> trio.SocketListener:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        raw.bind(os.fspath(path))
        path.chmod(0o600)  # before anybody can connect
        raw.listen(MAX_CLIENTS)
    except BaseException:
        raw.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(raw))


# --- the process that asks ------------------------------------------------------------------------------------------


async def connect_control(home: Path) -> trio.SocketStream | None:
    """Return a connection to the process that holds the home, or None if nobody answers."""
    path = home / SOCKET_NAME
    target = path.readlink() if path.is_symlink() else path
    if len(os.fsencode(target)) > MAX_SOCKET_PATH_BYTES:
        return None
    try:
        return await trio.open_unix_socket(target)
    except OSError:
        return None


async def run_remotely(
    stream: trio.SocketStream,
    command: str,
    params: dict[str, Any],
    reporter: Reporter,
    lines: AsyncIterator[str] | None,
) -> bool:
    """Run a command in the process at the other end; cancelling this cancels it there.

    Returns:
        Whether it was done; False if that process ended before it began, so that nothing has happened.

    Raises:
        CommandFailed: it failed there, or that process ended meanwhile.
    """
    async with stream, trio.open_nursery() as nursery:
        remote = _JsonLines(stream, MAX_OUTPUT_BYTES)
        try:
            await remote.send({"command": command, "params": params})
        except trio.BrokenResourceError:
            return False
        if lines is not None:
            nursery.start_soon(_send_input, remote, lines)
        final = await _pass_on_output(remote, reporter)
        nursery.cancel_scope.cancel()
    if final is None:
        return False
    if final["exit"] != DONE:
        raise CommandFailed(_decode_failure(final))
    return True


async def _pass_on_output(remote: _JsonLines, reporter: Reporter) -> Record | None:
    """Show what the command says; return its final line, or None if there was nothing at all."""
    has_begun = False
    while (value := await remote.receive()) is not None:
        has_begun = True
        match value:
            case {"record": dict() as record}:
                await reporter.record(record)
            case {"progress": dict() as record}:
                await reporter.progress(record)
            case {"note": str() as text}:
                await reporter.note(text)
            case {"exit": int()}:
                return value
    if has_begun:
        return {
            "exit": FAILED,
            "error": {"code": "interrupted", "message": "the process that held the home was killed"},
        }
    return None


async def _send_input(remote: _JsonLines, lines: AsyncIterator[str]) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for line in lines:
            await remote.send({"input": line})
        await remote.send({"input": None})


def _decode_failure(final: Record) -> Outcome:
    error = final.get("error") or {}
    return Outcome(
        exit_code=int(final["exit"]),
        code=str(error.get("code", "failed")),
        message=str(error.get("message", "the command failed")),
    )
