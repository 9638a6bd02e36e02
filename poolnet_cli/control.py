"""Commands for the process that holds a home, through ``control.sock`` in it.

One connection carries one command, JSON lines in UTF-8:

- client: ``{"command": NAME, "params": {...}}``, then for commands that take input ``{"input": TEXT}`` for each typed
  line or ``{"data": BASE64}`` for bytes … and ``{"input": null}`` at the end of input;
- server: any number of ``{"record": {...}}``, ``{"progress": {...}}``, ``{"note": TEXT}``, ``{"data": BASE64}``, at
  last ``{"exit": N, "error": {"code", "message"} | null}``.

Each side reads no faster than what it read is taken, so whoever is too fast waits. A client that goes away cancels its
command, also if it did not say that its input ends: half of it is not taken for all.

The socket is for the home's owner only (mode 0600 in a directory of mode 0700); the process that holds the home's lock
is the only one that makes it, so a stale one can be removed. A home whose path is too long for a socket address has a
symbolic link there, to a socket in a private temporary directory.
"""

import base64
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

from poolnet.errors import WireError
from poolnet.json_text import decode_json_untrusted
from poolnet_cli.lines import Input, NoData
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
#: How long a client may take to say what it wants, which is one line.
REQUEST_TIMEOUT_S: Final = 10.0
#: Commands at once through one socket; a person has a few terminals, a script a few jobs.
MAX_CLIENTS: Final = 32
#: Typed lines that wait for the command.
MAX_QUEUED_LINES: Final = 64
#: ... and bytes, in the pieces that they were sent in.
MAX_QUEUED_DATA: Final = 4

_KILLED: Final = (
    "the process that did the work in this home was killed; run the same command again, a download goes on where it was"
)

Execute = Callable[[str, dict[str, Any], Reporter, Input], Awaitable[None]]


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
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > self._max_bytes:
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
            value = decode_json_untrusted(line)
        except WireError:
            return None
        return value if isinstance(value, dict) else None


class _ClientGone(Exception):
    """Nobody is there any more who would take the output of a command."""


class _SocketReporter:
    """Passes a command's output to the client; ends the command if that is gone."""

    def __init__(self, lines: _JsonLines) -> None:
        self._lines = lines

    async def record(self, record: Record) -> None:
        await self._send({"record": record})

    async def progress(self, record: Record) -> None:
        await self._send({"progress": record})

    async def note(self, text: str) -> None:
        await self._send({"note": text})

    async def data(self, data: bytes) -> None:
        await self._send(_data_line(data))

    async def _send(self, value: Record) -> None:
        try:
            await self._lines.send(value)
        except trio.BrokenResourceError as exc:
            raise _ClientGone from exc


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
        request = None
        with trio.move_on_after(REQUEST_TIMEOUT_S):
            request = await lines.receive()
        if request is None:
            return
        command, params = request.get("command"), request.get("params", {})
        if not isinstance(command, str) or not isinstance(params, dict):
            return
        reading = _InputReading(lines)
        outcome = Outcome(exit_code=FAILED, code="interrupted", message="the process that held the home has ended")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reading.run, nursery.cancel_scope)
                reporter = _SocketReporter(lines)
                await self._execute(command, params, reporter, reading.input)
                outcome = Outcome(exit_code=DONE)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # a nursery raises nothing else
            cancelled, failed = group.split(trio.Cancelled)
            if failed is not None and (failed := failed.split(_ClientGone)[1]) is not None:
                outcome = _told(command, failed)
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


class _InputReading:
    """Takes in what a client sends into its command."""

    def __init__(self, lines: _JsonLines) -> None:
        self._lines = lines
        self._send_line, receive_line = trio.open_memory_channel[str](MAX_QUEUED_LINES)
        self._send_data, receive_data = trio.open_memory_channel[bytes](MAX_QUEUED_DATA)
        self.input = Input(lines=receive_line, data=receive_data)

    async def run(self, command: trio.CancelScope) -> None:
        """Pass on what comes; cancel the command when the client goes away."""
        async with self._send_line, self._send_data:
            while await self._take(command):
                pass
        while await self._lines.receive() is not None:
            pass
        command.cancel()

    async def _take(self, command: trio.CancelScope) -> bool:
        """Take one more piece of input; return whether there may be more."""
        match await self._lines.receive():
            case {"input": str() as text}:
                await self._send_line.send(text)
            case {"data": str() as text} if (data := _decode_data(text)) is not None:
                await self._send_data.send(data)
            case {"input": None}:
                return False
            case _:  # gone, or it talks something else
                command.cancel()  # before the command learns that there is no more
                return False
        return True


def _decode_data(text: str) -> bytes | None:
    """Return what `_data_line` encoded, or None if it is something else."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def _data_line(data: bytes) -> Record:
    return {"data": base64.b64encode(data).decode("ascii")}


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
    given: Input | None,
) -> bool:
    """Run a command in the process at the other end; cancelling this cancels it there.

    Args:
        given: what goes into it; None if it takes nothing. If reading it fails, the command is cancelled.

    Returns:
        Whether it was done; False if that process ended before it began, so that nothing has happened.

    Raises:
        CommandFailed: it failed there, or that process ended meanwhile.
        ExceptionGroup: of OSError: its input cannot be read.
    """
    async with stream, trio.open_nursery() as nursery:
        remote = _JsonLines(stream, MAX_OUTPUT_BYTES)
        try:
            await remote.send({"command": command, "params": params})
        except trio.BrokenResourceError:
            return False
        has_begun = trio.Event()
        if given is not None:
            nursery.start_soon(_send_input, remote, given, has_begun)
        final = await _pass_on_output(remote, reporter, has_begun)
        nursery.cancel_scope.cancel()
    if final is None:
        return False
    if final["exit"] != DONE:
        raise CommandFailed(_decode_failure(final))
    return True


async def _pass_on_output(remote: _JsonLines, reporter: Reporter, has_begun: trio.Event) -> Record | None:
    """Show what the command says; return its final line, or None if there was nothing at all."""
    while (value := await remote.receive()) is not None:
        has_begun.set()
        match value:
            case {"record": dict() as record}:
                await reporter.record(record)
            case {"progress": dict() as record}:
                await reporter.progress(record)
            case {"note": str() as text}:
                await reporter.note(text)
            case {"data": str() as text} if (data := _decode_data(text)) is not None:
                await reporter.data(data)
            case {"exit": int()}:
                return value
    if has_begun.is_set():
        return {
            "exit": FAILED,
            "error": {"code": "interrupted", "message": _KILLED},
        }
    return None


async def _send_input(remote: _JsonLines, given: Input, has_begun: trio.Event) -> None:
    """Send what is given: lines, or bytes; what there is not ends at once.

    Bytes can be read only once, so none are sent before it is sure that the command takes them.
    """
    with contextlib.suppress(trio.BrokenResourceError):
        async for line in given.lines:
            await remote.send({"input": line})
        if not isinstance(given.data, NoData):
            await has_begun.wait()
        async for data in given.data:
            await remote.send(_data_line(data))
        await remote.send({"input": None})


def _decode_failure(final: Record) -> Outcome:
    said = final.get("error")
    error = said if isinstance(said, dict) else {}
    return Outcome(
        exit_code=int(final["exit"]),
        code=str(error.get("code", "failed")),
        message=str(error.get("message", "the command failed")),
    )
