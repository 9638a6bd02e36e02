"""A drop folder: offers what appears in a folder, and fetches into it what the others offer.

    python examples/drop_folder.py INVITE_OR_POOL FOLDER [--home DIR]

Several people who run this on one pool share a folder, as far as adding goes: nothing is overwritten or removed.
"""

import argparse
from pathlib import Path

import trio

import poolnet

LOOK_EVERY_S = 1.0


async def offer_new_files(pool: poolnet.PoolNet, folder: Path) -> None:
    """Offer each file that appears in `folder`, once it has stayed the same from one look to the next."""
    seen, offered = dict[Path, tuple[int, int]](), dict[Path, tuple[int, int]]()
    while True:
        here = {offer.local_path for offer in pool.files.offers()}  # offered or fetched by us already
        for path in sorted(folder.iterdir()):
            if path in here or path.name.startswith(".") or path.suffix == ".part" or not path.is_file():
                continue
            try:
                found = (path.stat().st_size, path.stat().st_mtime_ns)
                if seen.get(path) == found != offered.get(path):
                    offered[path] = found  # once, also if the pool knows its content by another name
                    print(f"offered {(await pool.files.offer(path)).name}", flush=True)
                seen[path] = found
            except (OSError, poolnet.PoolnetError) as exc:  # it went away, or cannot be read
                print(exc, flush=True)
        await trio.sleep(LOOK_EVERY_S)


async def fetch(pool: poolnet.PoolNet, offer: poolnet.OfferInfo, folder: Path) -> None:
    """Fetch one file; say what went wrong instead of ending everything."""
    try:
        print(f"fetched {(await pool.files.download(offer.file_id, folder, kind=offer.kind)).name}", flush=True)
    except poolnet.PoolnetError as exc:  # among them OutputExists: one of that name is here already
        print(f"{offer.name} was not fetched: {exc}", flush=True)


async def share(target: str, folder: Path, home: Path | None, listen: tuple[str, int] = ("::", 0)) -> None:
    """Join `target` (an invite, or a pool of this home) and keep `folder` shared until cancelled."""
    folder, asked = folder.absolute(), set[poolnet.FileId]()
    async with (
        poolnet.open_node(home, listen=listen) as node,
        node.join(target, name=f"folder {folder.name}") as pool,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(offer_new_files, pool, folder)
        while True:
            for offer in pool.files.offers():
                if offer.state == "offered" and offer.kind != "stream" and offer.file_id not in asked:
                    asked.add(offer.file_id)
                    nursery.start_soon(fetch, pool, offer, folder)
            await trio.sleep(LOOK_EVERY_S)


def main() -> None:
    """Read the arguments and run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="an invite link, or the name of a pool of this home")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path, help="home directory of this device")
    parser.add_argument("--listen", default="::", help="address to bind the UDP socket to")
    args = parser.parse_args()
    try:
        trio.run(share, args.target, args.folder, args.home, (args.listen, 0))
    except* KeyboardInterrupt:
        print("bye")
    except* poolnet.PoolnetError as group:
        parser.exit(1, f"{group.exceptions[0]}\n")


if __name__ == "__main__":
    main()
