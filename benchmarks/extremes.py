"""What is at the edge: a folder of 100 000 small files, and one sparse file of 64 GiB. Seconds and peak memory.

    python -m benchmarks.extremes [--files 100000] [--sparse-gib 64]

Each is offered by one member and fetched by another, over loopback. To see that nothing is quadratic, compare with a
tenth of it.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import trio

from benchmarks.pool_of_processes import open_pool

_FILES_PER_DIRECTORY = 1000
_SMALL = 1500


def make_folder(path: Path, files: int) -> None:
    """Make a folder of small files that all differ."""
    for number in range(files):
        directory = path / f"part{number // _FILES_PER_DIRECTORY:03}"
        if number % _FILES_PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        (directory / f"file{number:06}.txt").write_bytes(f"{number} ".encode() * (_SMALL // 7))


def make_sparse(path: Path, gib: int) -> None:
    """Make a file that is nearly all hole: a little at its beginning, in the middle and at the end."""
    size = gib * 2**30
    with path.open("wb") as file:
        for offset in (0, size // 2, size - 4096):
            file.seek(offset)
            file.write(os.urandom(4096))


async def move(directory: Path, source: Path, do: str) -> dict[str, Any]:
    """Offer something in a new pool and fetch it; return the figures."""
    async with open_pool(directory, 2) as (giver, taker):
        await trio.sleep(1)
        start = trio.current_time()
        await giver.tell(do, path=str(source))
        file_id = (await giver.hear("offered"))["file_id"]
        offered = trio.current_time()
        await taker.hear("offer")
        fetching = trio.current_time()
        await taker.tell("get", file_id=file_id, out=str(directory / "copy"))
        await taker.hear("complete")
        fetched = trio.current_time()
        rows = []
        for member in (giver, taker):
            await member.tell("stats")
            rows.append(await member.hear("stats"))
    command = ["diff", "-rq", str(source), str(directory / "copy")]
    if do == "offer_folder":
        await trio.run_process(command)
    return {
        "offer_s": round(offered - start, 1),
        "fetch_s": round(fetched - fetching, 1),
        "giver_peak_rss_mib": round(rows[0]["peak_rss_mib"], 1),
        "taker_peak_rss_mib": round(rows[1]["peak_rss_mib"], 1),
    }


async def measure(files: int, sparse_gib: int) -> None:
    """Measure both and print a JSON line each."""
    if files:
        with tempfile.TemporaryDirectory() as name:
            make_folder(Path(name) / "folder", files)
            row = await move(Path(name), Path(name) / "folder", "offer_folder")
            print(json.dumps({"bench": "folder", "files": files, **row}), flush=True)
    if sparse_gib:
        with tempfile.TemporaryDirectory() as name:
            make_sparse(Path(name) / "sparse.bin", sparse_gib)
            row = await move(Path(name), Path(name) / "sparse.bin", "offer")
            used = (Path(name) / "copy").stat().st_blocks * 512
            print(json.dumps({"bench": "sparse", "gib": sparse_gib, **row, "copy_uses_mib": used >> 20}), flush=True)


def main() -> None:
    """Read the arguments, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--sparse-gib", type=int, default=64)
    args = parser.parse_args()
    trio.run(measure, args.files, args.sparse_gib)


if __name__ == "__main__":
    main()
