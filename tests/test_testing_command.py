"""`python -m poolnet.testing`: what it tells of seeds that fail, and of figures that are not good enough."""

from collections.abc import Generator, Iterable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from poolnet.testing import __main__ as command
from poolnet.testing.scenario_run import Outcome


def outcome(seed: int, *violations: str, digest: str = "abc", scenario: str = "calm") -> Outcome:
    return Outcome(
        scenario=scenario,
        seed=seed,
        violations=violations,
        trace_digest=digest,
        virtual_s=60.0,
        settled_s=1.0,
        took_s=0.1,
    )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third seed of every scenario fails, of `storm` each, and has another trace when it is run again."""

    def run_seeds(names: Iterable[str], seeds: Iterable[int], *, jobs: int) -> Generator[Outcome, None, None]:
        assert jobs > 0
        for name, seed in product(names, seeds):
            is_bad = name == "storm" or seed % 5 == 2
            yield outcome(seed, *(("somebody missed a message",) if is_bad else ()), scenario=name)

    def run_seed(_name: str, seed: int, *, tell: Any) -> Outcome:
        for line in range(100):
            tell(f"line {line}")
        return outcome(seed, "somebody missed a message", digest="def")

    monkeypatch.setattr(command, "run_seeds", run_seeds)
    monkeypatch.setattr(command, "run_seed", run_seed)
    monkeypatch.setattr(command, "_PROGRESS_S", 0.0)


@pytest.mark.usefixtures("failing")
def test_the_end_of_a_failed_seed_is_shown_and_how_to_see_all_of_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for arguments in ([], ["--trace", str(tmp_path / "trace")]):
        assert command.main(["--scenario", "calm", "--seeds", "10", *arguments]) == 1
        shown = capsys.readouterr()
        assert "calm: 2 of 10 seeds" in shown.err
        assert "line 40\n" in shown.out
        assert "line 39\n" not in shown.out
        assert "calm, seed 2, after 60.0 virtual seconds: VIOLATED:\n  somebody missed a message" in shown.out
        assert "does not follow from the seed" in shown.out
        assert shown.out.endswith("--scenario calm --seed 2 shows all of it\n")
    assert (tmp_path / "trace").read_text().startswith("line 0\nline 1\n")


@pytest.mark.usefixtures("failing")
def test_seeds_that_pass_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--scenario", "calm", "--first", "3", "--seeds", "4"]) == 0
    assert "calm: 4 seeds pass in" in capsys.readouterr().out


@pytest.mark.usefixtures("failing")
def test_each_scenario_is_summed_up_until_one_fails(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--scenario", "calm", "--scenario", "swizzle", "--scenario", "storm", "--scenario", "churn"]
    assert command.main([*names, "--first", "3", "--seeds", "4"]) == 1
    shown = capsys.readouterr().out
    assert [line.split(" pass")[0] for line in shown.splitlines()[:2]] == ["calm: 4 seeds", "swizzle: 4 seeds"]
    assert "storm, seed 3, after 60.0 virtual seconds: VIOLATED" in shown
    assert "churn" not in shown


@pytest.mark.usefixtures("failing")
def test_one_seed_over_again_shows_all_that_happens_and_whether_it_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command.main(["--scenario", "calm", "--seed", "7"]) == 1
    assert "line 0\n" in capsys.readouterr().out
    assert command.main(["--scenario", "calm", "--seed", "7", "--trace", str(tmp_path / "trace")]) == 1
    assert "line 0\n" not in capsys.readouterr().out


@pytest.mark.parametrize(("is_good", "code"), [(True, 0), (False, 1)])
def test_a_figure_that_is_not_good_enough_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_good: bool, code: int
) -> None:
    monkeypatch.setattr(command, "measure_spread", lambda *, seed: [SimpleNamespace(is_good=is_good)] * seed)
    monkeypatch.setattr(command, "measure_speed", lambda *, seed: f"speed of {seed}")
    monkeypatch.setattr(command, "measure_crowd", lambda *, seed, node_count: [f"{node_count} nodes of {seed}"])
    monkeypatch.setattr("gc.disable", lambda: None)
    assert command.main(["--spread"]) == code
    assert "nodes of" not in capsys.readouterr().out
    assert command.main(["--spread", "--crowd", "200"]) == code
    assert "200 nodes of 1" in capsys.readouterr().out
