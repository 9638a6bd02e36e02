"""A vote: the last choice of everybody counts, and every device comes to the same result.

    python examples/vote.py INVITE_OR_POOL CHOICE [--home DIR]

Programs talk by messages of their own, which are signed, ordered and stored like texts: whoever is away for a while
gets the votes of that time afterwards. Ctrl-C ends it.
"""

import argparse
from collections import Counter
from pathlib import Path

import trio

import poolnet

APP_NAME = "vote.choice"


class Ballot:
    """Who voted for what; it does not matter in which order it hears of that, or how often."""

    def __init__(self) -> None:
        self._votes: dict[poolnet.DeviceId, tuple[tuple[int, bytes], str]] = {}

    def count(self, vote: poolnet.AppMessageReceived | poolnet.HistoryEntry) -> None:
        """Take a vote, new or from the history, and print the result if it counts: `key` is the order of the pool."""
        last = self._votes.get(vote.node)
        if vote.app_name == APP_NAME and vote.data is not None and (last is None or last[0] < vote.key):
            self._votes[vote.node] = (vote.key, poolnet.printable(vote.data.decode(errors="replace")))
            result = Counter(choice for _, choice in self._votes.values())
            print(", ".join(f"{choice}: {result[choice]}" for choice in sorted(result)), flush=True)


async def run_vote(target: str, choice: str, home: Path | None, listen: tuple[str, int] = ("::", 0)) -> None:
    """Join `target` (an invite, or a pool of this home), vote, and print results until cancelled."""
    ballot = Ballot()
    async with poolnet.open_node(home, listen=listen) as node, node.join(target) as pool:
        pool.handle_app(APP_NAME, ballot.count)
        for entry in await pool.history.latest(1000, kinds=["app"]):
            ballot.count(entry)
        await pool.send_app(APP_NAME, choice.encode())
        await trio.sleep_forever()


def main() -> None:
    """Read the arguments and run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="an invite link, or the name of a pool of this home")
    parser.add_argument("choice", help="what to vote for")
    parser.add_argument("--home", type=Path, help="home directory of this device")
    parser.add_argument("--listen", default="::", help="address to bind the UDP socket to")
    args = parser.parse_args()
    try:
        trio.run(run_vote, args.target, args.choice, args.home, (args.listen, 0))
    except* KeyboardInterrupt:
        print("bye")
    except* poolnet.PoolnetError as group:
        parser.exit(1, f"{group.exceptions[0]}\n")


if __name__ == "__main__":
    main()
