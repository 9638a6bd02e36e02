"""Running seeds of scenarios: one, or very many on all processors.

Only what comes out of a run is passed between processes; whoever wants to know what happened runs the seed again, with
a trace, and gets the same.
"""

import gc
import multiprocessing
from collections.abc import Generator, Iterable
from itertools import product, starmap

from poolnet.testing.scenario_run import Outcome, ScenarioRun, Tell
from poolnet.testing.scenarios import SCENARIOS

#: Seeds that a process is given at a time.
_SEEDS_AT_A_TIME = 4


def run_seed(name: str, seed: int, *, tell: Tell | None = None) -> Outcome:
    """Run one seed of a scenario of that name."""
    return ScenarioRun(SCENARIOS[name], seed, tell=tell).run()


def run_seeds(names: Iterable[str], seeds: Iterable[int], *, jobs: int = 1) -> Generator[Outcome, None, None]:
    """Run these seeds of each of these scenarios, in so many processes.

    What came out of them comes in the order of the names, and of the seeds of each. Closing the iterator ends the
    processes.
    """
    if jobs == 1:
        yield from starmap(run_seed, product(names, seeds))
    else:
        with multiprocessing.get_context("spawn").Pool(jobs, _begin_process) as processes:
            yield from processes.imap(_run_in_process, product(names, seeds), chunksize=_SEEDS_AT_A_TIME)


def _begin_process() -> None:
    """Look for cycles between seeds only: what is loaded has none to find, and a pool stays until its seed is over."""
    gc.freeze()
    gc.disable()


def _run_in_process(name_and_seed: tuple[str, int]) -> Outcome:
    outcome = run_seed(*name_and_seed)
    gc.collect()
    return outcome
