"""``demo``: a whole pool on one machine, made of real processes that only know each other through the network.

One ``serve``, several ``join`` in temporary homes, over loopback. Texts are typed into their standard input; files are
offered and fetched through their control sockets; what happened is judged from outside: the events that they print, and
the bytes on the disk.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import blake3
import trio

from poolnet import SourceUnavailable
from poolnet_cli.children import Child, Children, open_children
from poolnet_cli.commands.offers import check_source
from poolnet_cli.control import connect_control, run_remotely
from poolnet_cli.demo_view import DemoState, DemoView, NodeState, summary_text
from poolnet_cli.launch import LocalReporter, make_reporter, run_until_signalled
from poolnet_cli.options import Settings
from poolnet_cli.outcome import FAILED, UNREACHABLE, CommandFailed, Outcome
from poolnet_cli.reporter import Record
from poolnet_cli.terminal import STDOUT, JsonReporter, write_text
from poolnet_cli.units import format_size

NAMES: Final = (
    *("ada", "bob", "cleo", "dan", "eve", "finn", "gil", "hana", "ivo", "june"),
    *("kai", "lea", "max", "nora", "otto", "pia", "quin", "rosa", "sam", "tess"),
)
GENERATED_SIZE: Final = 64 * 1024 * 1024
_POOL: Final = "demo"
_PLAIN_OFFER: Final[Record] = {"name": None, "media": False, "exclude": [], "hidden": False}
_PLAIN_GET: Final[Record] = {"all": False, "only": [], "kind": None, "priority": 0, "background": False}
_LOOPBACK: Final = {"POOLNET_BIND": "127.0.0.1:0"}
_POLL_S: Final = 0.25
#: Processes start, meet, talk: each step takes a second or two, on a busy machine a few times that.
_STEP_TIMEOUT_S: Final = 60.0
#: Links of each node before it begins; further ones come while they talk.
_ENOUGH_LINKS: Final = 2
_MIB: Final = 1024 * 1024


def run_demo(file: Path | None, *, nodes: int, settings: Settings) -> int:
    """Run the demo; return the exit code.

    Raises:
        SourceUnavailable: `file` cannot be read.
        CommandFailed: something is missing at the end, or a process ended.
    """
    if file is not None:
        check_source(str(file))
        if file.is_dir():
            raise SourceUnavailable(f"{file} is a folder; the demo passes a file around")
    reporter = make_reporter(settings, "demo")
    with tempfile.TemporaryDirectory(prefix="poolnet-demo-") as directory:
        demo = _Demo(Path(directory), file, nodes, reporter)
        return run_until_signalled(demo.run, reporter, stays=False, second_ends=False)


@attrs.define
class _Node:
    """A device of the demo."""

    state: NodeState
    home: Path
    child: Child

    @property
    def received(self) -> Path:
        """Where its copy of the file goes."""
        return self.home / "received"


class _Demo:
    """One run.

    Args:
        directory: for homes, copies and logs; removed by the caller.
        file: what to pass around; None for a temporary one.
    """

    def __init__(self, directory: Path, file: Path | None, nodes: int, reporter: LocalReporter) -> None:
        self._directory = directory
        self._file = file
        self._reporter = reporter
        self._state = DemoState(nodes=[NodeState(name) for name in NAMES[:nodes]])
        self._nodes: list[_Node] = []
        self._met = trio.Event()
        self._events, self._shown = trio.open_memory_channel[Record](10_000)

    async def run(self) -> None:
        """Play all scenes, then judge."""
        began_at = trio.current_time()
        source = await self._prepare_file()
        async with open_children(self._directory) as children, trio.open_nursery() as nursery:
            nursery.start_soon(self._show)
            await self._step("starting", partial(self._start, children))
            nursery.start_soon(self._watch_links)
            await self._step("meeting", self._meet)
            await self._step("talking", self._talk)
            await self._pass_file(source)
            await self._step("checking", partial(self._check, source))
            self._state.phase = "done"
            nursery.cancel_scope.cancel()
        self._state.total_s = trio.current_time() - began_at
        await self._report()

    async def _step(self, phase: str, scene: Callable[[], Any]) -> None:
        self._state.phase = phase
        with trio.move_on_after(_STEP_TIMEOUT_S):
            await scene()
            return
        message = f"{phase} took more than {_STEP_TIMEOUT_S:.0f} s; the machine may be too busy, try fewer --nodes"
        raise CommandFailed(Outcome(exit_code=UNREACHABLE, code="timeout", message=message))

    # --- scenes -------------------------------------------------------------------------------------------------

    async def _prepare_file(self) -> Path:
        size = GENERATED_SIZE if self._file is None else self._file.stat().st_size
        copies = len(self._state.nodes) - (self._file is not None)
        needed, free = size * copies, shutil.disk_usage(self._directory).free
        if needed > free:
            raise CommandFailed(
                Outcome(
                    exit_code=FAILED,
                    code="disk_full",
                    message=f"{copies} copies need {format_size(needed)}, and {self._directory.parent} has "
                    f"{format_size(free)} free; set TMPDIR to a larger place, or take a smaller file",
                )
            )
        self._state.size_bytes = size
        if self._file is not None:
            return self._file
        path = self._directory / "demo.bin"
        await trio.to_thread.run_sync(_write_random, path, size)
        return path

    async def _start(self, children: Children) -> None:
        server = await self._child(children, "server", ("serve", "--listen", "127.0.0.1:0"))
        address = (await server.wait_for(_is("serving")))["address"]
        first, *others = self._state.nodes
        founder = await self._child(children, first.name, ("create", _POOL, "--server", address))
        invite = (await founder.wait_for(lambda record: "invite" in record))["invite"]
        await founder.wait_ended()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._join, children, first, _POOL)
            for node in others:
                nursery.start_soon(self._join, children, node, invite)
        order = [state.name for state in self._state.nodes]
        self._nodes.sort(key=lambda node: order.index(node.state.name))

    async def _child(
        self, children: Children, name: str, arguments: tuple[str, ...], environment: dict[str, str] | None = None
    ) -> Child:
        return await children.start(
            name,
            arguments,
            home=self._directory / name,
            environment=_LOOPBACK | (environment or {}),
            listener=partial(self._heard, name),
        )

    async def _join(self, children: Children, state: NodeState, target: str) -> None:
        # The invite is a secret: by the environment, where other users of the machine do not see it.
        child = await self._child(children, state.name, ("join", "--name", state.name), {"POOLNET_INVITE": target})
        await child.wait_for(_is("joined"))
        self._nodes.append(_Node(state, self._directory / state.name, child))

    async def _meet(self) -> None:
        """Wait until everybody sees everybody, and is linked to some."""
        await self._met.wait()

    async def _talk(self) -> None:
        for node in self._nodes:
            await node.child.type_line(f"hello from {node.state.name}")
        async with trio.open_nursery() as nursery:
            for node in self._nodes:
                for other in self._nodes:
                    nursery.start_soon(node.child.wait_for, _is("message", text=f"hello from {other.state.name}"))

    async def _pass_file(self, source: Path) -> None:
        """Offer the file at the first node, and fetch it at all the others at once."""
        self._state.phase = "hashing"
        offers = await self._command(self._nodes[0], "offer", {"pool": _POOL, "paths": [str(source)], **_PLAIN_OFFER})
        file_id = offers[0]["file_id"]
        self._nodes[0].state.done_bytes = self._state.size_bytes
        await self._step("telling", partial(self._wait_offered, file_id))
        self._state.phase = "fetching"
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for node in self._nodes[1:]:
                nursery.start_soon(self._fetch, node, file_id)
        self._state.transfer_s = trio.current_time() - began_at

    async def _wait_offered(self, file_id: str) -> None:
        for node in self._nodes[1:]:
            await node.child.wait_for(_is("offer", file_id=file_id))

    async def _fetch(self, node: _Node, file_id: str) -> None:
        params = {"pool": _POOL, "files": [file_id], "out": str(node.received), "timeout_s": _STEP_TIMEOUT_S}
        await self._command(node, "get", {**params, **_PLAIN_GET})
        node.state.done_bytes = self._state.size_bytes
        node.state.rate = 0.0

    async def _check(self, source: Path) -> None:
        expected = await trio.to_thread.run_sync(_digest, source)
        for node in self._nodes[1:]:
            node.state.is_identical = await trio.to_thread.run_sync(_digest, node.received) == expected
        self._nodes[0].state.is_identical = True
        status = await self._command(self._nodes[0], "status", {})
        self._state.seeder_sent_bytes = status[0]["file_bytes_out"]

    # --- what is seen of it -------------------------------------------------------------------------------------

    def _heard(self, name: str, record: Record) -> None:
        """Take an event of one process into the picture."""
        state = next((state for state in self._state.nodes if state.name == name), None)
        if state is not None and record.get("event") == "message":
            state.messages.add(record["text"])
        if state is not None and record.get("event") == "progress":
            state.done_bytes, state.rate = record["bytes"], record["rate"]
        if "event" in record and isinstance(self._reporter, JsonReporter):
            self._events.send_nowait({**record, "at": name})

    async def _watch_links(self) -> None:
        while True:
            for node in self._nodes:
                peers = await self._command(node, "peers", {"pool": _POOL, "all": False, "timeout_s": 1.0})
                node.state.peers = len(peers)
                node.state.links = sum(peer["linked"] for peer in peers)
            others = len(self._nodes) - 1
            if all(n.state.peers == others and n.state.links >= min(others, _ENOUGH_LINKS) for n in self._nodes):
                self._met.set()
            await trio.sleep(_POLL_S)

    async def _show(self) -> None:
        """Pass on events as JSON, or draw the table."""
        if isinstance(self._reporter, JsonReporter):
            async for record in self._shown:
                await self._reporter.record(record)
        with DemoView(self._state) as view:
            while True:
                view.refresh()
                await trio.sleep(_POLL_S)

    async def _report(self) -> None:
        summary = self._state.summary()
        if isinstance(self._reporter, JsonReporter):
            while True:
                try:
                    await self._reporter.record(self._shown.receive_nowait())
                except trio.WouldBlock:
                    break
            await self._reporter.record(summary)
        else:
            await write_text(STDOUT, summary_text(summary))
        if not summary["ok"]:
            raise CommandFailed(
                Outcome(exit_code=FAILED, code="demo_failed", message="something is missing, see above")
            )

    async def _command(self, node: _Node, name: str, params: dict[str, Any]) -> list[Record]:
        """Run a command in a node's process; return its records."""
        collector = _Collector()
        stream = await connect_control(node.home)
        if stream is None or not await run_remotely(stream, name, params, collector, None):
            message = f"{node.state.name} does not answer any more"
            raise CommandFailed(Outcome(exit_code=FAILED, code="process_ended", message=message))
        return collector.records


class _Collector:
    """Keeps the records of a command."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def record(self, record: Record) -> None:
        self.records.append(record)

    async def progress(self, record: Record) -> None:
        pass  # the process prints it as an event

    async def note(self, text: str) -> None:
        pass

    async def data(self, data: bytes) -> None:
        pass  # no command of the demo has any


def _is(event: str, **fields: str) -> Callable[[Record], bool]:
    expected = {"event": event, **fields}
    return lambda record: expected.items() <= record.items()


def _write_random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, _MIB):
            file.write(os.urandom(min(_MIB, size - start)))


def _digest(path: Path) -> bytes:
    return blake3.blake3(max_threads=1).update_mmap(path).digest()
