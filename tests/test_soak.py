"""A short soak of real processes, and that a soak notices what it is for: each check is shown something wrong."""

import json
import sys
from pathlib import Path
from random import Random

import pytest
import trio

from benchmarks.soak.__main__ import soak
from benchmarks.soak.figures import Sample, children_of, growth, take_sample, what_grew
from benchmarks.soak.findings import Findings, judge
from benchmarks.soak.plan import Freeze, Kill, KillServer, Leave, Offer, draw_plan, steady_members
from benchmarks.soak.program import Program
from benchmarks.soak.verdict import (
    Ledger,
    complaints,
    differing_histories,
    left_over,
    lost_messages,
    unfinished_in,
    wrong_files,
)

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="figures are read from Linux' /proc"
)

MIB = 2**20


@needs_proc
@pytest.mark.timeout(900)  # on a machine that is busy with other things; it takes half a minute
async def test_a_pool_of_processes_that_are_killed_and_come_back_agrees_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    findings = await soak(tmp_path, seed=14, duration_s=8, members=3, sample_s=0.5)
    assert findings.wrong == []
    assert findings.spoken != []
    assert {"server/1", "server/2", "member2/1", "member2/2"} <= set(findings.lives)
    fetched = [path.is_dir() for path in (tmp_path / "out1").iterdir()]
    assert set(fetched) == {False, True}  # in this plan member0 offers files and a folder, and keeps to it


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_plan() -> None:
    assert draw_plan(3, duration_s=600, members=10) == draw_plan(3, duration_s=600, members=10)
    assert draw_plan(3, duration_s=600, members=10) != draw_plan(4, duration_s=600, members=10)


@pytest.mark.parametrize("duration_s", [10, 60, 1800])
def test_a_plan_has_some_of_everything_in_order_and_spares_in_its_second_half_those_that_are_measured(
    duration_s: float,
) -> None:
    plan = draw_plan(1, duration_s=duration_s, members=10)
    assert [at_s for at_s, _ in plan] == sorted(at_s for at_s, _ in plan)
    assert len({type(action) for _, action in plan}) == 8
    ended = [(at_s, action) for at_s, action in plan if isinstance(action, Kill | Leave | Freeze)]
    assert not {action.member for at_s, action in ended if at_s > duration_s / 2} & set(steady_members(10))
    assert {action.member for at_s, action in ended if at_s < duration_s / 2} & set(steady_members(10))
    assert all(at_s < duration_s / 2 for at_s, action in plan if isinstance(action, KillServer))
    assert all(1000 <= action.size_bytes <= 4 * MIB for _, action in plan if isinstance(action, Offer))


# --- what grows -------------------------------------------------------------------------------------------------------


def life(memory: list[float], descriptors: list[int] | None = None) -> list[Sample]:
    """Return samples, one every five seconds, with so many bytes and descriptors."""
    descriptors = descriptors or [30] * len(memory)
    return [
        Sample(at_s=5.0 * n, anonymous_bytes=int(size), rss_bytes=0, pss_bytes=0, descriptors=count, threads=4)
        for n, (size, count) in enumerate(zip(memory, descriptors, strict=True))
    ]


def judged(
    samples: list[Sample] | None = None, *, objects: list[tuple[float, int]] | None = None, messages: int = 0
) -> list[str]:
    """Return what is told of one process that lived for twenty minutes, looked at in the last ten."""
    return what_grew({"ada/1": samples or []}, {"ada/1": objects or []}, from_s=600, until_s=1195, messages=messages)


def test_memory_that_grows_a_little_all_the_time_is_told_however_it_jumps() -> None:
    rng = Random(1)
    (told,) = judged(life([50 * MIB + rng.uniform(-MIB, MIB) + n * 60_000 for n in range(240)]))
    assert told.startswith("ada/1 grew by ")


def test_noise_peaks_and_what_messages_may_take_are_no_growth() -> None:
    rng = Random(1)
    assert judged(life([50 * MIB + rng.uniform(-2 * MIB, 2 * MIB) for _ in range(240)])) == []
    assert judged(life([50 * MIB + (80 * MIB if n in (170, 171, 239) else 0) for n in range(240)])) == []
    remembered = life([50 * MIB + n * 60_000 for n in range(240)])
    assert judged(remembered, messages=10_000) == []
    assert judged(remembered, messages=100) != []


def test_what_the_allocator_takes_in_the_first_minutes_is_no_growth() -> None:
    warming = [min(n, 60) * MIB / 2 for n in range(240)]
    assert judged(life(warming)) == []
    late = life([20 * MIB] * 120 + [20 * MIB + size for size in warming[:120]])[120:]
    assert judged(late) == []


def test_a_node_that_once_had_too_much_memory_is_told() -> None:
    (told,) = judged(life([MIB] * 100 + [151 * MIB] + [MIB] * 139))
    assert told == "ada/1 had more than 150 MiB"


def test_a_descriptor_lost_every_minute_is_told() -> None:
    (told,) = judged(life([MIB] * 240, [30 + n // 12 for n in range(240)]))
    assert "descriptors more" in told
    links_that_come_and_go = [30 + n % 7 for n in range(240)]
    assert judged(life([MIB] * 240, links_that_come_and_go)) == []


def test_objects_lost_with_every_link_are_told_and_those_of_messages_are_not() -> None:
    rng = Random(1)
    lost = [(5.0 * n, 250_000 + rng.randrange(4000) + 100 * n) for n in range(240)]
    (told,) = judged(objects=lost)
    assert "more blocks of objects" in told
    assert judged(objects=lost, messages=2000) == []
    assert judged(objects=[(at_s, 250_000 + rng.randrange(4000)) for at_s, _ in lost]) == []


def test_shrinking_is_no_growth_and_few_samples_say_nothing() -> None:
    shrinking = growth([(float(n), 100.0 - n) for n in range(50)])
    assert shrinking is not None
    assert shrinking.total < 0
    assert growth([(1.0, 1.0), (2.0, 5.0)]) is None


def test_only_who_lived_all_through_is_judged() -> None:
    growing = life([n * MIB / 5 for n in range(240)])
    assert judged(growing) != []
    assert judged(growing[:200]) == judged(growing[150:]) == []


def test_the_second_half_is_judged() -> None:
    findings = Findings(lives={"ada/1": life([n * MIB / 10 for n in range(240)])}, times={"over": 1195.0})
    assert [sentence.split()[0] for sentence in judge(findings).wrong] == ["ada/1"]
    early = [min(n, 60) * MIB / 10 for n in range(240)]
    assert judge(Findings(lives={"ada/1": life(early)}, times={"over": 1195.0})).wrong == []


@needs_proc
async def test_figures_of_a_process_are_taken_while_it_lives() -> None:
    process = await trio.lowlevel.open_process(["sleep", "1000"])
    sample = take_sample(process.pid, 1.0)
    process.kill()
    await process.wait()
    assert sample is not None
    assert sample.rss_bytes >= sample.anonymous_bytes > 0
    assert sample.threads == 1
    assert take_sample(process.pid, 2.0) is None


@needs_proc
async def test_a_child_that_nobody_has_waited_for_is_found() -> None:
    program = "import os, sys; child = os.fork() or os._exit(0); os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)"
    code = f"{program}; print(flush=True); sys.stdin.read()"
    parent = await trio.lowlevel.open_process([sys.executable, "-c", code], stdin=-1, stdout=-1)
    assert parent.stdin is not None
    assert parent.stdout is not None
    await parent.stdout.receive_some()
    (told,) = children_of([parent.pid])
    await parent.stdin.aclose()
    await parent.wait()
    assert "in state Z" in told


# --- what is compared -------------------------------------------------------------------------------------------------


def test_histories_that_differ_in_anything_are_told() -> None:
    same = ["a", "b", "c"]
    assert differing_histories({"ada": same, "bob": list(same)}) == []
    (told,) = differing_histories({"ada": same, "bob": ["a", "d", "c"]})
    assert told == "bob lacks 1 (b) and has 1 more (d), compared with ada"
    (told,) = differing_histories({"ada": same, "bob": ["b", "a", "c"]})
    assert told == "bob has them in another order, compared with ada"


def test_an_acknowledged_message_that_somebody_lacks_is_told_unless_it_was_taken_back() -> None:
    ledger = Ledger(said={"a": "ada", "b": "ada", "c": "bob"}, taken_back={"b"})
    assert lost_messages(ledger, {"ada": ["a", "c"], "bob": ["a", "b", "c", "d"]}) == []
    (told,) = lost_messages(ledger, {"ada": ["a", "c"], "bob": ["a", "b"]})
    assert told == "bob lacks 1 acknowledged messages (c) of bob"


def test_a_copy_that_differs_or_is_not_there_is_told(tmp_path: Path) -> None:
    file, folder = tmp_path / "0", tmp_path / "1"
    file.write_bytes(b"whole")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(b"deep")
    out = tmp_path / "out"
    (out / "folder" / "deep").mkdir(parents=True)
    (out / "folder" / "deep" / "file").write_bytes(b"deep")
    ledger = Ledger(offered={"file": ("ada", file), "folder": ("ada", folder)}, sources=[file, folder])
    assert wrong_files(ledger, {"bob": out}) == ["bob lacks 1 files (file)"]
    ledger.withdrawn.add("file")
    assert wrong_files(ledger, {"bob": out}) == []
    (out / "file").write_bytes(b"while")
    (out / "nobody knows").write_bytes(b"other")
    told = wrong_files(ledger, {"bob": out})
    assert len(told) == 2
    assert all("not what was offered" in sentence for sentence in told)
    (out / "file").write_bytes(b"whole")
    (out / "nobody knows").write_bytes(b"whole")  # whoever offered it was killed before it could say so
    (out / "folder" / "deep" / "file").rename(out / "folder" / "deep" / "other")
    assert "folder" in wrong_files(ledger, {"bob": out})[0]


def test_what_is_left_in_homes_and_beside_downloads_is_told(tmp_path: Path) -> None:
    pool = tmp_path / "home" / "pools" / "abc"
    (pool / "files" / "trees").mkdir(parents=True)
    for name in ("pool.json", "statements.json", "messages.db", "files/offers.json", "files/trees/abc.tree"):
        (pool / name).touch()
    assert left_over(tmp_path / "home") == []
    unwanted = (".pool.json.0a1b2c3d", "messages.db-wal", "files/cache-1.ring", "files/x.part", "core")
    for name in unwanted:
        (pool / name).touch()
    assert len(left_over(tmp_path / "home")) == len(unwanted)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file.part").touch()
    assert len(unfinished_in(tmp_path / "out")) == 1
    assert unfinished_in(tmp_path / "out", {"file"}) == []  # nobody offers it any more


async def test_a_process_that_ends_by_itself_and_what_it_complains_of_are_told(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        program = Program(
            "ada",
            ["-m", "benchmarks.soak.member", json.dumps({})],
            directory=tmp_path,
            nursery=nursery,
            ready="joined",
            hear=lambda _program, _row: None,
        )
        await program.start()
    (told,) = program.wrong
    assert told.startswith("ada ended by itself with 1")
    (told,) = complaints(program.log)
    assert "Traceback" in told


async def test_a_process_that_does_not_end_well_is_told_and_one_that_was_killed_is_not(tmp_path: Path) -> None:
    def hear(_program: Program, _row: dict[str, object]) -> None:
        pass

    (tmp_path / "program.py").write_text(
        'import sys\nprint(\'{"event": "up"}\', flush=True)\nsys.stdin.read()\nsys.exit(3)\n'
    )
    async with trio.open_nursery() as nursery:
        arguments = [str(tmp_path / "program.py")]
        program = Program("ada", arguments, directory=tmp_path, nursery=nursery, ready="up", hear=hear)
        await program.start()
        await program.wait_up()
        await program.kill()
        assert program.wrong == []
        await program.start()
        await program.wait_up()
        nursery.start_soon(program.end)
        await program.kill()
        assert program.wrong == []
        await program.start()
        await program.wait_up()
        await program.end()
    assert program.incarnation == 3
    (told,) = program.wrong
    assert told.startswith("ada was asked to end, and ended with 3")
