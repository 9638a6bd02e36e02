"""A pool of real processes under churn for many minutes; the exit code is 1 if anything is not as it should be."""

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import trio

from benchmarks.soak.findings import Findings, judge, print_figures
from benchmarks.soak.plan import draw_plan
from benchmarks.soak.pool import open_soak_pool


async def soak(directory: Path, *, seed: int, duration_s: float, members: int, sample_s: float = 5.0) -> Findings:
    """Run one soak in a directory; what is wrong in the end is in the findings."""
    plan = draw_plan(seed, duration_s=duration_s, members=members)
    async with open_soak_pool(directory, seed=seed, sample_s=sample_s) as pool:
        await pool.set_up(members)
        await pool.carry_out(plan, duration_s)
        await pool.gather()
    return judge(pool.findings)


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="what happens, and when; drawn if it is not given")
    parser.add_argument("--directory", type=Path, default=None, help="a new directory, which is kept")
    args = parser.parse_args()
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    directory = args.directory or Path(tempfile.mkdtemp(prefix="poolnet-soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}: {args.members} members for {args.minutes:g} minutes, in {directory}", flush=True)
    findings = trio.run(
        lambda: soak(directory.absolute(), seed=seed, duration_s=args.minutes * 60, members=args.members)
    )
    print_figures(findings)
    took_s = findings.times["agreed"] - findings.times["over"]
    starts = len(findings.lives)
    print(f"{len(findings.spoken)} messages, {starts} processes; all agreed {took_s:.0f} s after the last had happened")
    for sentence in findings.wrong:
        print(f"WRONG: {sentence}")
    if findings.wrong:
        print(f"seed {seed}; logs, homes and samples are in {directory}")
        sys.exit(1)
    if args.directory is None:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
