"""An echo bot: answers every message in a pool that begins with "echo ".

    python examples/echo_bot.py INVITE_OR_POOL [--home DIR]

The whole of a program built on poolnet: open the device, join, subscribe, send. Ctrl-C ends it.
"""

import argparse
from pathlib import Path

import trio

import poolnet

PREFIX = "echo "


async def run_bot(target: str, home: Path | None, listen: tuple[str, int] = ("::", 0)) -> None:
    """Join `target` (an invite, or a pool of this home) and answer until cancelled."""
    async with (
        poolnet.open_node(home, listen=listen) as node,
        node.join(target, name="echo bot") as pool,
        pool.subscribe() as events,
    ):
        print(f"in {pool.name} as {poolnet.short_id(pool.node_id)}", flush=True)
        async for event in events:
            match event:
                case poolnet.MessageReceived(node=author, text=text) if author != pool.node_id:
                    if text.startswith(PREFIX):
                        await pool.send(text.removeprefix(PREFIX))
                case poolnet.NodeJoined(name=name):
                    print(f"{poolnet.printable(name)} is here", flush=True)


def main() -> None:
    """Read the arguments and run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="an invite link, or the name of a pool of this home")
    parser.add_argument("--home", type=Path, help="home directory of the bot's device")
    parser.add_argument("--listen", default="::", help="address to bind the UDP socket to")
    args = parser.parse_args()
    try:
        trio.run(run_bot, args.target, args.home, (args.listen, 0))
    except* KeyboardInterrupt:
        print("bye")
    except* poolnet.PoolnetError as group:
        parser.exit(1, f"{group.exceptions[0]}\n")


if __name__ == "__main__":
    main()
