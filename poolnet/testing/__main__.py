"""`python -m poolnet.testing`: scenarios over many seeds, and one seed over again, with all that happened in it."""

import argparse
import gc
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from poolnet.testing.runner import run_seed, run_seeds
from poolnet.testing.scenario_run import Outcome
from poolnet.testing.scenarios import SCENARIOS
from poolnet.testing.spread import measure_crowd, measure_speed, measure_spread

#: Lines of the trace that are shown of a seed that fails.
_LAST_LINES = 60
#: How often progress is told.
_PROGRESS_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code: 1 if a seed fails."""
    options = _parser().parse_args(arguments)
    if options.spread:
        return _show_spread(options.crowd)
    names = options.scenario or list(SCENARIOS)
    if options.seed is not None:
        return max(_replay(name, options.seed, options.trace) for name in names)
    seeds = range(options.first, options.first + options.seeds)
    failed = _try_scenarios(names, seeds, options.jobs)
    if failed is None:
        return 0
    _show_failure(failed, options.trace)
    return 1


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {scenario.name:12} {scenario.summary}" for scenario in SCENARIOS.values())
    parser = argparse.ArgumentParser(
        prog="python -m poolnet.testing",
        description="Run simulated pools through scenarios that are drawn from seeds.",
        epilog=f"scenarios:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, metavar="NAME", help="may be repeated; all")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds of each (100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--seed", type=int, help="run this one only, and print all that happens in it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one for each processor)")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write what happens there: of --seed, or a failure")
    parser.add_argument("--spread", action="store_true", help="measure how messages spread over a hundred nodes")
    parser.add_argument("--crowd", type=int, metavar="NODES", help="with --spread: and over so many; takes minutes")
    return parser


def _try_scenarios(names: Sequence[str], seeds: Sequence[int], jobs: int) -> Outcome | None:
    """Run these seeds of each scenario; return what came out of the first that fails."""
    with closing(run_seeds(names, seeds, jobs=jobs)) as outcomes:
        for name in names:
            if (failed := _try_seeds(name, len(seeds), islice(outcomes, len(seeds)))) is not None:
                return failed
    return None


def _try_seeds(name: str, count: int, outcomes: Iterable[Outcome]) -> Outcome | None:
    """Take what comes out of the seeds of one scenario, and sum it up; return the first that fails."""
    started_at = told_at = time.monotonic()
    settled_s: list[float] = []
    for outcome in outcomes:
        if outcome.violations:
            return outcome
        settled_s.append(outcome.settled_s)
        if time.monotonic() - told_at >= _PROGRESS_S:
            told_at = time.monotonic()
            print(f"{name}: {len(settled_s)} of {count} seeds", file=sys.stderr, flush=True)
    took_s = time.monotonic() - started_at
    slowest_s = max(settled_s, default=0.0)
    print(f"{name}: {count} seeds pass in {took_s:.1f} s; in order after {slowest_s:.0f} s at most", flush=True)
    return None


def _replay(name: str, seed: int, trace: Path | None) -> int:
    """Run one seed and show all that happens in it, here or in a file."""
    outcome = run_seed(name, seed, tell=print) if trace is None else _run_into_file(name, seed, trace)
    _show_outcome(outcome)
    return 1 if outcome.violations else 0


def _show_failure(failed: Outcome, trace: Path | None) -> None:
    """Run a failed seed again, with a trace, and show the end of that."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    again = run_seed(failed.scenario, failed.seed, tell=last.append)
    print("\n".join(last))
    _show_outcome(failed)
    if again.trace_digest != failed.trace_digest:
        print(f"run again it has the trace {again.trace_digest}: something in it does not follow from the seed")
    if trace is not None:
        _run_into_file(failed.scenario, failed.seed, trace)
    print(f"python -m poolnet.testing --scenario {failed.scenario} --seed {failed.seed} shows all of it")


def _run_into_file(name: str, seed: int, path: Path) -> Outcome:
    with path.open("w", encoding="utf-8") as file:
        return run_seed(name, seed, tell=lambda line: print(line, file=file))


def _show_outcome(outcome: Outcome) -> None:
    verdict = "VIOLATED:" if outcome.violations else "passes"
    print(f"{outcome.scenario}, seed {outcome.seed}, after {outcome.virtual_s:.1f} virtual seconds: {verdict}")
    for violation in outcome.violations:
        print(f"  {violation}")
    print(f"trace {outcome.trace_digest}")


def _show_spread(crowd: int | None) -> int:
    """Measure how messages spread; return 1 if one of the figures is not as good as it has to be."""
    gc.disable()  # what is made stays until the end, and looking through it again and again takes a quarter of the time
    fails = False
    for spread in measure_spread(seed=1):
        print(spread, flush=True)
        fails |= not spread.is_good
    print(measure_speed(seed=1), flush=True)
    if crowd is not None:
        for line in measure_crowd(seed=1, node_count=crowd):
            print(line, flush=True)
    return 1 if fails else 0


if __name__ == "__main__":
    sys.exit(main())
