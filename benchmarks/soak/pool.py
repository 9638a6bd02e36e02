"""Carries out the plan of a soak on real processes, gathers everyone at its end, and looks at what came of it."""

import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import attrs
import trio

import poolnet
from benchmarks.soak import verdict
from benchmarks.soak.figures import Sample, children_of, take_sample
from benchmarks.soak.findings import Findings
from benchmarks.soak.plan import (
    Action,
    Freeze,
    Kill,
    KillServer,
    Leave,
    Offer,
    Plan,
    Say,
    TakeBack,
    Withdraw,
)
from benchmarks.soak.program import Program, Row

_POOL: Final = "soak"
_SERVER: Final = "server"
#: A `poolnet join` that nobody ends, and that only looks on.
_ONLOOKER: Final = "onlooker"
#: How long all of it may take, on a busy machine, to come up, and to agree at the end.
_SET_UP_S: Final = 120.0
_GATHER_S: Final = 300.0
#: ... and how long what is under way when the plan is over.
_FINISH_S: Final = 30.0
#: Between two looks at whether all agree.
_LOOK_S: Final = 1.0
_FILES_OF_A_FOLDER: Final = 20


class SoakPool:
    """The processes of a soak. Made by `open_soak_pool`."""

    def __init__(self, directory: Path, seed: int, sample_s: float, nursery: trio.Nursery) -> None:
        self.findings = Findings()
        self.ledger = verdict.Ledger()
        self._directory = directory
        self._rng = Random(f"content {seed}")
        self._sample_s = sample_s
        self._nursery = nursery
        self._start_s = trio.current_time()
        self._members: list[Program] = []
        self._onlooker: Program | None = None
        self._server = self._program(_SERVER, self._server_arguments(0), ready="serving", end_by_signal=True)
        self._address = ""
        self._invite = ""
        self._sources = 0
        self._texts = 0

    # --- the beginning ------------------------------------------------------------------------------------------

    async def set_up(self, members: int) -> None:
        """Start the server and the members; return once all are linked.

        Raises:
            TimeoutError: they are not.
        """
        with trio.fail_after(_SET_UP_S):
            await self._server.start()
            await self._server.wait_up()
            self._server.arguments = self._server_arguments(poolnet.parse_server_address(self._address).port)
            for number in range(members):
                await self._add_member(number)
            await self._add_onlooker()
            await self._until_linked()
        self._nursery.start_soon(self._sample_always)
        self._start_s = trio.current_time()

    async def _add_member(self, number: int) -> None:
        known = {"server": self._address} if number == 0 else {"invite": self._invite}
        options = {"home": str(self._home(number)), "out": str(self._out(number)), "name": _name(number), **known}
        self._out(number).mkdir(parents=True)
        arguments = ["-m", "benchmarks.soak.member", json.dumps(options)]
        self._members.append(member := self._program(_name(number), arguments, ready="joined"))
        await member.start()
        await member.wait_up()

    async def _add_onlooker(self) -> None:
        arguments = self._poolnet("join", self._invite, "--name", _ONLOOKER, "--bind", "127.0.0.1:0")
        self._onlooker = self._program(_ONLOOKER, arguments, ready="joined", end_by_signal=True)
        await self._onlooker.start()
        await self._onlooker.wait_up()

    async def _until_linked(self) -> None:
        enough = min(len(self._members) - 1, 2)
        while True:
            states = [await member.ask("state") for member in self._members]
            if all(state is not None and state["linked"] >= enough for state in states):
                return
            await trio.sleep(_LOOK_S)

    # --- what happens -------------------------------------------------------------------------------------------

    async def carry_out(self, plan: Plan, duration_s: float) -> None:
        """Do everything at its time, and return when all is done, or a while after the end."""
        self.findings.quiet.append(self._sample_all())
        self.findings.times["began"] = self._now()
        async with trio.open_nursery() as nursery:
            for at_s, action in plan:
                await trio.sleep_until(self._start_s + at_s)
                nursery.start_soon(self._act, action)
            await trio.sleep_until(self._start_s + duration_s)
            self.findings.times["over"] = self._now()
            nursery.cancel_scope.deadline = trio.current_time() + _FINISH_S

    async def _act(self, action: Action) -> None:
        match action:
            case Say(member=number, count=count):
                await self._members[number].ask("say", texts=[self._text() for _ in range(count)])
            case TakeBack(member=number, choice=choice):
                own = [msg_id for msg_id, name in self.ledger.said.items() if name == _name(number)]
                if msg_id := _chosen(own, choice):
                    self.ledger.taken_back.add(msg_id)
                    await self._members[number].ask("take_back", id=msg_id)
            case Offer(member=number, kind=kind, size_bytes=size):
                await self._offer(self._members[number], kind, size)
            case Withdraw(member=number, choice=choice):
                own = [file_id for file_id, (name, _) in self.ledger.offered.items() if name == _name(number)]
                if file_id := _chosen(own, choice):
                    self.ledger.withdrawn.add(file_id)
                    await self._members[number].ask("withdraw", file_id=file_id)
            case Kill(member=number, away_s=away_s):
                await self._members[number].kill()
                await self._back_after(self._members[number], away_s)
            case Leave(member=number, away_s=away_s):
                await self._members[number].end()
                await self._back_after(self._members[number], away_s)
            case Freeze(member=number, for_s=for_s):
                self._members[number].freeze()
                await trio.sleep(for_s)
                self._members[number].thaw()
            case KillServer(away_s=away_s):
                await self._server.kill()
                await self._back_after(self._server, away_s)

    async def _back_after(self, program: Program, away_s: float) -> None:
        await trio.sleep(away_s)
        await program.start()

    async def _offer(self, member: Program, kind: str, size: int) -> None:
        if not member.is_up:
            return
        source = self._directory / "offered" / str(self._sources)
        self._sources += 1
        self.ledger.sources.append(source)
        await trio.to_thread.run_sync(_make_source, source, kind, self._rng.randbytes(size))
        answer = await member.ask("offer", kind=kind, path=str(source))
        if answer is not None:
            self.ledger.offered[answer["file_id"]] = (member.name, source)

    def _text(self) -> str:
        self._texts += 1
        return f"{self._texts} " + "word " * self._rng.randrange(1, 20)

    # --- the end ------------------------------------------------------------------------------------------------

    async def gather(self) -> None:
        """Bring everyone back, wait until all agree, and end them; what is not as it should be is in the findings."""
        await self._bring_back()
        await self._until_agreed()
        self.findings.times["agreed"] = self._now()
        self.findings.quiet.append(self._sample_all())
        histories = await self._histories()
        histories[_ONLOOKER] = await self._history_of_onlooker(next(iter(histories.values()), []))
        self._check_children()
        for program in self._programs():
            await program.end()
        self._check_all(histories)

    async def _bring_back(self) -> None:
        """Start whoever is away; who is there is not."""
        for program in self._programs():
            program.thaw()
            await program.start()
        with trio.move_on_after(_GATHER_S):
            for program in self._programs():
                await program.wait_up()

    async def _until_agreed(self) -> None:
        """Wait until all have the same history and every file; say so if they have not in time."""
        with trio.move_on_after(_GATHER_S):
            while True:
                for member in self._members:
                    self.findings.states[member.name] = await member.ask("state") or {}
                states = self.findings.states.values()
                if len({state.get("digest") for state in states}) == 1 and not any(
                    state.get("unfinished", True) for state in states
                ):
                    return
                await trio.sleep(_LOOK_S)
        for name, state in self.findings.states.items():
            digest, unfinished = state.get("digest", "no answer"), state.get("unfinished", {})
            what = f"{state.get('messages')} messages ({digest[:12]}), {len(unfinished)} unfinished files"
            self.findings.wrong.append(f"not all agree after {_GATHER_S:g} s: {name} has {what} {unfinished}")

    async def _histories(self) -> dict[str, list[str]]:
        histories = {}
        for member in self._members:
            path = self._directory / f"{member.name}.history"
            if await member.ask("history", path=str(path)) is not None:
                histories[member.name] = path.read_text().split("\n")
        return histories

    async def _history_of_onlooker(self, expected: list[str]) -> list[str]:
        """Return what `poolnet history` says, once it says what is expected, or after a time."""
        path = self._directory / f"{_ONLOOKER}.jsonl"
        command = [sys.executable, *self._poolnet("history", _POOL, "--export", str(path))]
        ids: list[str] = []
        with trio.move_on_after(_GATHER_S):
            while ids != expected or not expected:
                path.unlink(missing_ok=True)
                await trio.run_process(command, capture_stdout=True, capture_stderr=True)
                ids = [json.loads(line)["id"] for line in path.read_text().splitlines()]
                await trio.sleep(_LOOK_S)
        return ids

    def _check_children(self) -> None:
        pids = {program.pid for program in self._programs() if program.pid is not None}
        self.findings.wrong += [f"a process was left over: {child}" for child in children_of(pids)]

    def _check_all(self, histories: dict[str, list[str]]) -> None:
        numbers = range(len(self._members))
        wrong = self.findings.wrong
        wrong += verdict.differing_histories(histories)
        wrong += verdict.lost_messages(self.ledger, histories)
        wrong += verdict.wrong_files(self.ledger, {_name(number): self._out(number) for number in numbers})
        others = (self._directory / f"home-{name}" for name in (_SERVER, _ONLOOKER))
        for home in (*(self._home(number) for number in numbers), *others):
            wrong += verdict.left_over(home)
        for number in numbers:
            wrong += verdict.unfinished_in(self._out(number), self.ledger.withdrawn)
        for program in self._programs():
            wrong += program.wrong
            wrong += verdict.complaints(program.log)

    # --- inside -------------------------------------------------------------------------------------------------

    async def _sample_always(self) -> None:
        with (self._directory / "samples.jsonl").open("a") as file:
            while True:
                for life, sample in self._sample_all().items():
                    self.findings.lives.setdefault(life, []).append(sample)
                    file.write(json.dumps({"life": life, **attrs.asdict(sample)}) + "\n")
                file.flush()
                await trio.sleep(self._sample_s)

    def _sample_all(self) -> dict[str, Sample]:
        samples = {}
        for program in self._programs():
            sample = None if program.pid is None else take_sample(program.pid, self._now())
            if sample is not None:
                samples[f"{program.name}/{program.incarnation}"] = sample
        return samples

    def _hear(self, program: Program, row: Row) -> None:
        match row["event"]:
            case "said":
                self.ledger.said[row["id"]] = program.name
                self.findings.spoken.append(self._now())
            case "objects":
                life = f"{program.name}/{program.incarnation}"
                self.findings.objects.setdefault(life, []).append((self._now(), row["count"]))
            case "serving":
                self._address = row["address"]
            case "invite":
                self._invite = row["invite"]
            case "trouble":
                with (self._directory / "trouble.txt").open("a") as file:
                    file.write(f"{time.strftime('%H:%M:%S')} {program.name}: {row['what']}\n")

    def _program(self, name: str, arguments: list[str], *, ready: str, end_by_signal: bool = False) -> Program:
        return Program(
            name,
            arguments,
            directory=self._directory,
            nursery=self._nursery,
            ready=ready,
            hear=self._hear,
            end_by_signal=end_by_signal,
        )

    def _programs(self) -> list[Program]:
        return [self._server, *self._members, *(() if self._onlooker is None else (self._onlooker,))]

    def _poolnet(self, command: str, *arguments: str) -> list[str]:
        home = str(self._directory / f"home-{_ONLOOKER}")
        return ["-m", "poolnet_cli", "--json", "--home", home, command, *arguments]

    def _server_arguments(self, port: int) -> list[str]:
        home = str(self._directory / "home-server")
        return ["-m", "poolnet_cli", "--json", "serve", "--listen", f"127.0.0.1:{port}", "--data", home]

    def _home(self, number: int) -> Path:
        return self._directory / f"home{number}"

    def _out(self, number: int) -> Path:
        return self._directory / f"out{number}"

    def _now(self) -> float:
        return trio.current_time() - self._start_s


@asynccontextmanager
async def open_soak_pool(directory: Path, *, seed: int, sample_s: float) -> AsyncIterator[SoakPool]:
    """Make a soak's processes in `directory`; all have ended after the block."""
    async with trio.open_nursery() as nursery:
        pool = SoakPool(directory, seed, sample_s, nursery)
        yield pool
        nursery.cancel_scope.cancel()


def _name(number: int) -> str:
    return f"member{number}"


def _chosen(things: list[Any], choice: float) -> Any:
    return things[int(choice * len(things))] if things else None


def _make_source(path: Path, kind: str, content: bytes) -> None:
    """Make something to offer; a folder has about all of the content in files of different sizes."""
    path.parent.mkdir(exist_ok=True)
    if kind != "folder":
        path.write_bytes(content)
        return
    path.mkdir()
    for number in range(_FILES_OF_A_FOLDER):
        file = path / f"part{number % 3}" / f"file {number}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content[: len(content) // 2 ** (number + 1)] + str(number).encode())
