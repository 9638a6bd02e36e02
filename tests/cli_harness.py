"""Real poolnet processes for tests: started in temporary homes on loopback, their events collected line by line.

Every wait has a deadline, and only processes that were started here are ended here.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

Record = dict[str, Any]

#: How long a test waits for something that normally takes a second or two, on a machine that is busy with other tests.
PATIENCE_S = 60.0
_GRACE_S = 10.0


@attrs.frozen(kw_only=True)
class Completed:
    """A process that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[Record]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.stdout.splitlines()]


class PoolnetProcess:
    """A running ``poolnet --json``.

    Attributes:
        home: its home directory.
        events: every record that it has printed so far.
    """

    def __init__(self, process: trio.Process, home: Path, stderr_path: Path) -> None:
        self.home = home
        self.events: list[Record] = []
        self._process = process
        self._stderr_path = stderr_path
        self._readers = trio.lowlevel.ParkingLot()
        self._is_at_end = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What it has printed on standard error."""
        return self._stderr_path.read_text(errors="replace")

    def all_of(self, event: str, **fields: Any) -> list[Record]:
        """Return the events of that name and with those fields that it has printed so far."""
        wanted = {"event": event, **fields}
        return [record for record in self.events if wanted.items() <= record.items()]

    async def event(self, event: str, *, count: int = 1, within_s: float = PATIENCE_S, **fields: Any) -> Record:
        """Return the event of that name and with those fields (the `count`-th), waiting for it if it has not come."""
        with trio.move_on_after(within_s):
            while len(found := self.all_of(event, **fields)) < count:
                assert not self._is_at_end, f"it ended without {event} {fields}; {self._picture()}"
                await self._readers.park()
            return found[count - 1]
        raise AssertionError(f"no {event} {fields} within {within_s} s; {self._picture()}")

    async def type_line(self, line: str) -> None:
        """Type a line into it."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line.encode() + b"\n")

    async def end_input(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGINT as Ctrl-C does, SIGTERM, SIGSTOP, SIGKILL …"""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._process.kill()
        await self._process.wait()

    async def end(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = _GRACE_S) -> int:
        """Ask it to end, and return its exit code."""
        self._process.send_signal(number)
        return await self.wait(within_s=within_s)

    async def wait(self, *, within_s: float = PATIENCE_S) -> int:
        """Return its exit code once it has ended."""
        with trio.move_on_after(within_s):
            return await self._process.wait()
        raise AssertionError(f"it did not end within {within_s} s; {self._picture()}")

    async def read_output(self) -> None:
        """Collect its events until it ends. Run by the harness."""
        assert self._process.stdout is not None
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + bytes(data)).split(b"\n")
            self.events += [json.loads(line) for line in lines]
            self._readers.unpark_all()
        self._is_at_end = True
        self._readers.unpark_all()

    async def end_anyhow(self) -> None:
        """Make sure that it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)  # a stopped one would not hear the next
            self._process.terminate()
            with trio.move_on_after(_GRACE_S):
                await self._process.wait()
        if self._process.poll() is None:
            await self.kill()

    def _picture(self) -> str:
        return f"events so far: {self.events[-20:]}; on standard error: {self.stderr[-2000:]}"


class Cli:
    """Starts poolnet. Made by `open_cli`.

    Attributes:
        directory: where the homes are.
        bind: where nodes bind; on loopback unless a test has a network of its own.
        under: by home, a command that runs poolnet somewhere else, such as in a network namespace.
    """

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.directory = directory
        self.bind = "127.0.0.1:0"
        self.under: dict[str, tuple[str, ...]] = {}
        self._nursery = nursery
        self._started: list[PoolnetProcess] = []

    def home(self, name: str) -> Path:
        """Return the home directory of that name, which need not exist."""
        return self.directory / name

    async def start(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> PoolnetProcess:
        """Start ``poolnet --json ARGUMENTS`` in the home of that name, and leave it running."""
        stderr_path = self.directory / f"{name}-{len(self._started)}.stderr"
        with stderr_path.open("wb") as stderr:
            process = await trio.lowlevel.open_process(
                self._command(name, ("--json", *arguments)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self._environment(env),
                start_new_session=True,
            )
        started = PoolnetProcess(process, self.home(name), stderr_path)
        self._started.append(started)
        self._nursery.start_soon(started.read_output)
        return started

    async def start_script(self, name: str, script: Path, *arguments: str) -> PoolnetProcess:
        """Start a Python program that uses the library. It has no events; all that it prints is its `stderr`."""
        output_path = self.directory / f"{name}-{len(self._started)}.output"
        with output_path.open("wb") as output:
            process = await trio.lowlevel.open_process(
                [sys.executable, str(script), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(None),
                start_new_session=True,
            )
        started = PoolnetProcess(process, self.home(name), output_path)
        self._started.append(started)
        return started

    async def run(
        self,
        name: str,
        *arguments: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        as_json: bool = True,
        within_s: float = PATIENCE_S,
    ) -> Completed:
        """Run ``poolnet ARGUMENTS`` in the home of that name to its end."""
        command = self._command(name, (*(("--json",) if as_json else ()), *arguments))
        with trio.move_on_after(within_s):
            done = await trio.run_process(
                command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=self._environment(env)
            )
            return Completed(code=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode())
        raise AssertionError(f"{arguments} did not end within {within_s} s")

    async def serve(self, name: str = "server", *, port: int = 0) -> tuple[PoolnetProcess, str]:
        """Start a sync server; return it and its address."""
        server = await self.start(name, "serve", "--listen", f"127.0.0.1:{port}")
        return server, (await server.event("serving"))["address"]

    async def create(self, name: str, pool: str, *, server: str | None = None) -> str:
        """Make a pool; return an invite link."""
        done = await self.run(name, "create", pool, *(() if server is None else ("--server", server)))
        assert done.code == 0, done
        return str(done.records[0]["invite"])

    async def join(self, name: str, pool_or_invite: str, *arguments: str) -> PoolnetProcess:
        """Start a join whose display name is the home's name; return it when it is in the pool."""
        joined = await self.start(name, "join", "--name", name, *arguments, env={"POOLNET_INVITE": pool_or_invite})
        await joined.event("joined")
        return joined

    async def pool_of(self, *names: str, pool: str = "garden") -> list[PoolnetProcess]:
        """Start a server and a join in each home, the first being the founder; return the joins once all are linked."""
        _, address = await self.serve()
        invite = await self.create(names[0], pool, server=address)
        joined = [await self.join(names[0], pool)]
        joined += [await self.join(name, invite) for name in names[1:]]
        for name in names:
            await self.linked(name, pool, count=len(names) - 1)
        return joined

    async def linked(self, name: str, pool: str, *, count: int, within_s: float = PATIENCE_S) -> list[Record]:
        """Wait until the home's node, which runs a join of the pool, has at least `count` links; return its peers."""
        joins = [started for started in self._started if started.home == self.home(name)]
        joined = next(process for process in reversed(joins) if process.all_of("joined", pool_name=pool))
        peers: list[Record] = []
        with trio.move_on_after(within_s):
            while True:
                asked = len(joined.all_of("who"))
                await joined.type_line("/who")  # costs no further process
                peers = (await joined.event("who", count=asked + 1))["nodes"]
                if sum(peer["linked"] for peer in peers) >= count:
                    return peers
                await trio.sleep(0.05)
        raise AssertionError(f"{name} is not linked to {count} within {within_s} s: {peers}")

    async def end_all(self) -> None:
        """End every process that is still running."""
        async with trio.open_nursery() as nursery:
            for process in self._started:
                nursery.start_soon(process.end_anyhow)

    def _command(self, name: str, arguments: Sequence[str]) -> list[str]:
        poolnet = (sys.executable, "-m", "poolnet_cli", "--home", str(self.home(name)))
        return [*self.under.get(name, ()), *poolnet, *arguments]

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        """Return this process's environment without what would steer poolnet, and with `bind` and `extra`."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith("POOLNET_")}
        return plain | {"POOLNET_BIND": self.bind} | dict(extra or {})


@asynccontextmanager
async def open_cli(directory: Path) -> AsyncIterator[Cli]:
    """Start processes in the block; all have ended after it."""
    async with trio.open_nursery() as nursery:
        cli = Cli(directory, nursery)
        try:
            yield cli
        finally:
            with trio.CancelScope(shield=True):  # bounded: they are killed after _GRACE_S
                await cli.end_all()
            nursery.cancel_scope.cancel()
