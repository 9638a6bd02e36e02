"""Commands through the control socket."""

import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from poolnet import UnknownPool
from poolnet_cli.control import MAX_SOCKET_PATH_BYTES, SOCKET_NAME, connect_control, open_control_server, run_remotely
from poolnet_cli.lines import Input
from poolnet_cli.outcome import CommandFailed
from poolnet_cli.reporter import Reporter


class Recorder:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.is_started = trio.Event()

    async def record(self, record: dict[str, Any]) -> None:
        self.seen.append(("record", record))
        self.is_started.set()

    async def progress(self, record: dict[str, Any]) -> None:
        self.seen.append(("progress", record))

    async def note(self, text: str) -> None:
        self.seen.append(("note", text))

    async def data(self, data: bytes) -> None:
        self.seen.append(("data", data))


class Commands:
    """The commands of these tests."""

    def __init__(self) -> None:
        self.was_cancelled = trio.Event()
        self.taken = 0
        self.may_take = trio.Event()
        self.had_all = False

    async def execute(self, name: str, params: dict[str, Any], reporter: Reporter, given: Input) -> None:
        match name:
            case "report":
                await reporter.record({"echo": params})
                await reporter.progress({"bytes": 1})
                await reporter.note("a note")
            case "fail":
                raise UnknownPool("there is no such pool")
            case "crash":
                raise ZeroDivisionError("oops")
            case "echo":
                async for line in given.lines:
                    await reporter.record({"line": line})
            case "copy":
                await reporter.record({})
                async for data in given.data:
                    await reporter.data(data)
            case "swallow":
                await reporter.record({})
                await self.may_take.wait()
                async for data in given.data:
                    self.taken += len(data)
                self.had_all = True
            case "stay":
                await reporter.record({})
                try:
                    await trio.sleep_forever()
                finally:
                    self.was_cancelled.set()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


async def ask(home: Path, name: str, params: dict[str, Any], reporter: Recorder, *lines: str) -> bool:
    async def typed() -> AsyncIterator[str]:
        for line in lines:
            yield line

    stream = await connect_control(home)
    assert stream is not None
    return await run_remotely(stream, name, params, reporter, Input(lines=typed()))


class Endless:
    """Bytes without an end; counts what was read of them."""

    def __init__(self) -> None:
        self.read = 0

    def __aiter__(self) -> "Endless":
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        self.read += 64 * 1024
        return bytes(64 * 1024)


async def pass_bytes(home: Path, name: str, data: AsyncIterator[bytes], reporter: Recorder) -> bool:
    stream = await connect_control(home)
    assert stream is not None
    return await run_remotely(stream, name, {}, reporter, Input(data=data))


async def test_a_command_runs_there_and_its_output_arrives_here_in_order(home: Path):
    recorder = Recorder()
    async with open_control_server(home, Commands().execute):
        assert await ask(home, "report", {"text": "ü\n"}, recorder)
    assert recorder.seen == [("record", {"echo": {"text": "ü\n"}}), ("progress", {"bytes": 1}), ("note", "a note")]


async def test_a_failure_there_is_the_same_failure_here(home: Path):
    async with open_control_server(home, Commands().execute):
        with pytest.raises(CommandFailed, match="there is no such pool") as caught:
            await ask(home, "fail", {}, Recorder())
    assert (caught.value.outcome.exit_code, caught.value.outcome.code) == (1, "unknown_pool")


async def test_a_bug_there_ends_only_that_command(home: Path, caplog: pytest.LogCaptureFixture):
    async with open_control_server(home, Commands().execute):
        with pytest.raises(CommandFailed, match="ZeroDivisionError") as caught:
            await ask(home, "crash", {}, Recorder())
        assert await ask(home, "report", {}, Recorder())
    assert caught.value.outcome.code == "internal"
    assert "crash" in caplog.text


async def test_typed_lines_reach_the_command_until_their_end(home: Path):
    recorder = Recorder()
    async with open_control_server(home, Commands().execute):
        assert await ask(home, "echo", {}, recorder, "one", "", "three")
    assert [record["line"] for _, record in recorder.seen] == ["one", "", "three"]


async def test_bytes_go_both_ways_as_they_are(home: Path):
    async def pieces() -> AsyncIterator[bytes]:
        for data in (b"\0\xff\n", bytes(range(256)) * 1000, b"end"):
            yield data

    recorder = Recorder()
    async with open_control_server(home, Commands().execute):
        assert await pass_bytes(home, "copy", pieces(), recorder)
    received = b"".join(data for word, data in recorder.seen if word == "data")
    assert received == b"\0\xff\n" + bytes(range(256)) * 1000 + b"end"


async def test_bytes_that_are_not_taken_are_not_read_either(home: Path):
    commands, endless = Commands(), Endless()
    async with open_control_server(home, commands.execute), trio.open_nursery() as nursery:
        nursery.start_soon(pass_bytes, home, "swallow", endless, Recorder())
        with trio.move_on_after(0.5):
            while endless.read < 64 * 2**20:
                await trio.lowlevel.checkpoint()
        held = endless.read
        assert 0 < held < 4 * 2**20
        commands.may_take.set()
        while endless.read < held + 2**20:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_half_of_the_bytes_of_a_client_that_is_killed_are_not_taken_for_all(home: Path):
    commands = Commands()
    async with open_control_server(home, commands.execute) as server:
        stream = await connect_control(home)
        assert stream is not None
        async with stream:
            await stream.send_all(b'{"command": "swallow"}\n{"data": "AAAA"}\n')
            await stream.receive_some()
            commands.may_take.set()
            while not commands.taken:
                await trio.lowlevel.checkpoint()
        await server.wait_idle()
    assert commands.taken == 3
    assert not commands.had_all


async def test_a_client_that_goes_away_cancels_its_command(home: Path):
    commands, recorder = Commands(), Recorder()
    async with open_control_server(home, commands.execute) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, home, "stay", {}, recorder)
            await recorder.is_started.wait()
            assert server.clients == 1
            nursery.cancel_scope.cancel()
        await commands.was_cancelled.wait()
        await server.wait_idle()
        assert server.clients == 0


async def test_when_the_process_with_the_home_ends_the_client_is_told(home: Path):
    recorder = Recorder()

    async def end_when_started() -> None:
        async with open_control_server(home, Commands().execute):
            nursery.start_soon(expect_end)
            await recorder.is_started.wait()

    async def expect_end() -> None:
        with pytest.raises(CommandFailed, match="has ended") as caught:
            await ask(home, "stay", {}, recorder)
        assert caught.value.outcome.code == "interrupted"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_when_started)


@pytest.mark.parametrize("said", [b"", b'{"record": {}}\n'])
async def test_a_process_that_is_killed_is_noticed_and_nothing_done_is_told_from_something(home: Path, said: bytes):
    async def die(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(said)

    listener = trio.SocketListener(await unix_listener(home / SOCKET_NAME))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, die, [listener])
        if said:
            with pytest.raises(CommandFailed, match="killed"):
                await ask(home, "stay", {}, Recorder())
        else:
            assert not await ask(home, "stay", {}, Recorder())
        nursery.cancel_scope.cancel()


async def unix_listener(path: Path) -> trio.socket.SocketType:
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listener.bind(str(path))
    listener.listen()
    return listener


@pytest.mark.parametrize("sent", [b"garbage\n", b"[]\n", b"{}\n", b'{"command": 5}\n', b"x" * 5_000_000, b"\xff\n"])
async def test_what_is_no_request_is_hung_up_on(home: Path, sent: bytes):
    async with open_control_server(home, Commands().execute):
        stream = await connect_control(home)
        assert stream is not None
        async with stream:
            try:
                await stream.send_all(sent)
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                pass
        assert await ask(home, "report", {}, Recorder())


async def test_only_the_owner_may_use_the_socket_and_it_is_gone_afterwards(home: Path):
    async with open_control_server(home, Commands().execute):
        mode = (home / SOCKET_NAME).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not (home / SOCKET_NAME).exists()
    assert await connect_control(home) is None


async def test_a_socket_left_by_a_killed_process_is_replaced(home: Path):
    (await unix_listener(home / SOCKET_NAME)).close()
    assert (home / SOCKET_NAME).exists()
    assert await connect_control(home) is None
    async with open_control_server(home, Commands().execute):
        assert await ask(home, "report", {}, Recorder())


async def test_a_home_with_a_long_path_has_its_socket_elsewhere_and_leaves_nothing_there(home: Path):
    deep = home / ("d" * MAX_SOCKET_PATH_BYTES)
    deep.mkdir()
    for _ in range(2):  # the second finds what a killed process would leave
        async with open_control_server(deep, Commands().execute):
            link = deep / SOCKET_NAME
            target = link.readlink()
            assert await ask(deep, "report", {}, Recorder())
            assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
        assert not target.parent.exists()
        assert not link.is_symlink()
        target.parent.mkdir()
        link.symlink_to(target)
    target.parent.rmdir()


async def test_the_final_line_is_the_last_one(home: Path):
    async with open_control_server(home, Commands().execute):
        stream = await connect_control(home)
        assert stream is not None
        async with stream:
            await stream.send_all(json.dumps({"command": "report", "params": {}}).encode() + b"\n")
            content = b"".join([bytes(data) async for data in stream])
    assert json.loads(content.splitlines()[-1]) == {"exit": 0, "error": None}
