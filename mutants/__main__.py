"""``python -m mutants [--sample 400] [--seed 1]``: the mutation score of the pure layers, and what survived.

Each mutant first meets the tests that are likeliest to notice it, for about a second, and if it survives, more of those
that run its line. Tests and code are those of a copy that is made at the beginning. Ends with exit code 1 if the score
is below `--least`.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import attrs

from mutants.changes import Mutant, mutants_of, numbers_named_in
from mutants.equivalent import EQUIVALENT
from mutants.reach import LAYERS, Reach, measure
from mutants.trial import Trial, Verdict, run_trials

_CACHE: Final = Path(".mutants/reach.json")
#: How long the tests of a mutant may take together, as measured under coverage: at first, and if it survives.
_BUDGETS_S: Final = (2.0, 60.0)
_NOT_COPIED: Final = (".git", ".venv", ".mutants", ".hypothesis", ".*_cache", "__pycache__", ".coverage*", "dist")
_EQUIVALENT: Final = frozenset((each.path, each.function, each.before, each.after) for each in EQUIVALENT)


def all_mutants(tree: Path, only: str = "") -> Iterator[Mutant]:
    """Yield the mutants of all modules in order, except those known to be equivalent; `only`: paths that contain it."""
    limits = numbers_named_in((tree / "poolnet/limits.py").read_text())
    for path in sorted(path for layer in LAYERS for path in tree.glob(f"{layer}/*.py")):
        name = str(path.relative_to(tree))
        if only in name:
            for mutant in mutants_of(name, path.read_text(), limits=limits):
                if (name, mutant.function, mutant.before, mutant.after) not in _EQUIVALENT:
                    yield mutant


class Round:
    """The trials of a sample: first all with few tests, then those that survived with more."""

    def __init__(self, tree: Path, reach: Reach, *, jobs: int, minutes: float) -> None:
        self._tree = tree
        self._reach = reach
        self._jobs = jobs
        self._deadline = time.monotonic() + 60 * minutes
        self.verdicts: dict[Mutant, Verdict] = {}

    def try_all(self, mutants: list[Mutant]) -> None:
        """Try them until time is up; what was not tried has no verdict.

        Raises:
            RuntimeError: tests fail without any change.
        """
        unchanged = [attrs.evolve(mutant, source=(self._tree / mutant.path).read_text()) for mutant in mutants[:3]]
        self._run(unchanged, _BUDGETS_S[0])
        if set(self.verdicts.values()) & {Verdict.KILLED}:
            raise RuntimeError("tests fail without any change")
        self.verdicts.clear()
        for budget_s in _BUDGETS_S:
            left = [mutant for mutant in mutants if self.verdicts.get(mutant) in (None, Verdict.SURVIVED)]
            self._run(left, budget_s)

    def _run(self, mutants: list[Mutant], budget_s: float) -> None:
        trials = (self._trial(mutant, budget_s) for mutant in mutants)
        run_trials(trials, tree=self._tree, jobs=self._jobs, deadline=self._deadline, done=self._take)
        print(file=sys.stderr)

    def _trial(self, mutant: Mutant, budget_s: float) -> Trial:
        tests = self._reach.tests_for(
            mutant.path, mutant.lines, budget_s=budget_s, is_declaration=mutant.is_declaration
        )
        return Trial(mutant, tests, sum(self._reach.seconds[test] for test in tests))

    def _take(self, trial: Trial, verdict: Verdict) -> None:
        self.verdicts[trial.mutant] = verdict
        print({Verdict.KILLED: ".", Verdict.SURVIVED: "S"}.get(verdict, "u"), end="", file=sys.stderr, flush=True)


def report(verdicts: dict[Mutant, Verdict], tree: Path) -> float:
    """Print what survived and the scores, return the score of all."""
    for mutant, verdict in sorted(verdicts.items(), key=lambda each: (each[0].path, min(each[0].lines))):
        if verdict is not Verdict.KILLED:
            print(f"\n{verdict.value}: {mutant.kind} in {mutant.function or 'the module'}")
            print(mutant.diff((tree / mutant.path).read_text()))
    print()
    for layer in (*LAYERS, ""):
        counts = Counter(verdict for mutant, verdict in verdicts.items() if mutant.path.startswith(layer))
        if counts:
            score = 100 * counts[Verdict.KILLED] / counts.total()
            print(f"{layer or 'all':18} {score:5.1f} %  {counts[Verdict.KILLED]} of {counts.total()} killed")
    return score


def main() -> int:
    """Draw, try, report."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=400, help="how many mutants (0: all)")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--only", default="", help="of modules with this in their path")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no trial later than that")
    parser.add_argument("--least", type=float, default=85.0, help="the score that is good enough")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="poolnet-mutants-") as directory:
        tree = Path(directory).resolve() / "poolnet"
        shutil.copytree(Path.cwd(), tree, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        mutants = list(all_mutants(tree, options.only))
        if 0 < options.sample < len(mutants):
            mutants = Random(options.seed).sample(mutants, options.sample)
        one_round = Round(tree, measure(tree, _CACHE.resolve()), jobs=options.jobs, minutes=options.minutes)
        print(f"{len(mutants)} mutants", file=sys.stderr)
        one_round.try_all(mutants)
        score = report(one_round.verdicts, tree)
    return 0 if score >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
