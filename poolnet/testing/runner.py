"""Running seeds of scenarios: one, or very many on all processors.

Only what comes out of a run is passed between processes; whoever wants to know what happened runs the seed again, with
a trace, and gets the same.
"""

import multiprocessing
from collections.abc import Generator, Iterable
from functools import partial

from poolnet.testing.scenario_run import Outcome, ScenarioRun, Tell
from poolnet.testing.scenarios import SCENARIOS

#: Seeds that a process is given at a time.
_SEEDS_AT_A_TIME = 4


def run_seed(name: str, seed: int, *, tell: Tell | None = None) -> Outcome:
    """Run one seed of a scenario of that name."""
    return ScenarioRun(SCENARIOS[name], seed, tell=tell).run()


def run_seeds(name: str, seeds: Iterable[int], *, jobs: int = 1) -> Generator[Outcome, None, None]:
    """Run many seeds, in so many processes; what came out of them comes in the order of the seeds.

    Closing the iterator ends the processes.
    """
    run_one = partial(run_seed, name)
    if jobs == 1:
        yield from map(run_one, seeds)
    else:
        with multiprocessing.get_context("spawn").Pool(jobs) as processes:
            yield from processes.imap(run_one, seeds, chunksize=_SEEDS_AT_A_TIME)
