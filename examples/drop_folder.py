"""A drop folder: offers what appears in a folder, and fetches into it what the others offer.

    python examples/drop_folder.py INVITE_OR_POOL FOLDER [--home DIR]

Several people who run this on one pool share a folder, as far as adding goes: nothing is overwritten or removed.
"""

import argparse
from pathlib import Path

import trio

import poolnet

LOOK_EVERY_S = 2.0


async def offer_new_files(pool: poolnet.PoolNet, folder: Path) -> None:
    """Offer each file that appears in `folder`, once its size has stayed the same for a look."""
    offered = {offer.local_path for offer in pool.files.offers()}
    sizes: dict[Path, int] = {}
    while True:
        for path in sorted(folder.iterdir()):
            if path in offered or not path.is_file() or path.name.startswith(".") or ".part" in path.suffixes:
                continue
            size = path.stat().st_size
            if sizes.get(path) == size:
                offer = await pool.files.offer(path)
                offered.add(path)
                print(f"offered {offer.name}", flush=True)
            sizes[path] = size
        await trio.sleep(LOOK_EVERY_S)


async def fetch(pool: poolnet.PoolNet, file_id: poolnet.FileId, folder: Path) -> None:
    """Fetch one file; say what went wrong instead of ending everything."""
    try:
        path = await pool.files.download(file_id, folder)
        print(f"fetched {path.name}", flush=True)
    except poolnet.OutputExists:
        pass  # one of that name is here already, maybe our own
    except poolnet.PoolnetError as exc:
        print(exc, flush=True)


async def share(target: str, folder: Path, home: Path | None, listen: tuple[str, int] = ("::", 0)) -> None:
    """Join `target` and keep `folder` shared until cancelled."""
    folder = folder.absolute()
    async with (
        poolnet.open_node(home, listen=listen) as node,
        node.join(target) as pool,
        pool.subscribe() as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(offer_new_files, pool, folder)
        for offer in pool.files.offers():
            if offer.local_path is None:
                nursery.start_soon(fetch, pool, offer.file_id, folder)
        async for event in events:
            if isinstance(event, poolnet.FileOffered) and event.node != pool.node_id:
                nursery.start_soon(fetch, pool, event.file_id, folder)


def main() -> None:
    """Read the arguments and run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="an invite link, or the name of a pool of this home")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path, help="home directory of this device")
    args = parser.parse_args()
    trio.run(share, args.target, args.folder, args.home)


if __name__ == "__main__":
    main()
