"""The commands: each an async function that works the same in this process and behind the control socket."""

from typing import Final

from poolnet_cli.arguments import is_invite
from poolnet_cli.command import Command, Params
from poolnet_cli.commands import contents, downloads, fetching, history, offers, pools, settings, streams, talk
from poolnet_cli.commands.join import join


def _always(_params: Params) -> bool:
    return True


#: Every command that works on a home, by name. `serve` and `demo` do not.
COMMANDS: Final[dict[str, Command]] = {
    command.name: command
    for command in (
        Command(name="create", run=pools.create, makes_home=_always),
        Command(name="invite", run=pools.invite),
        Command(name="status", run=pools.status, run_without_home=pools.status_without_home),
        Command(name="leave", run=pools.leave),
        Command(
            name="join",
            run=join,
            holds_home=True,
            takes_input=True,
            makes_home=lambda params: is_invite(params["pool"]),
        ),
        Command(name="send", run=talk.send),
        Command(name="announce", run=talk.announce),
        Command(name="wait", run=talk.wait),
        Command(name="history", run=history.history),
        Command(name="keep", run=history.keep),
        Command(name="peers", run=talk.peers),
        Command(name="offer", run=offers.offer, holds_home=True),
        Command(name="files", run=offers.files),
        Command(name="contents", run=contents.contents),
        Command(name="retract", run=offers.retract),
        Command(name="get", run=fetching.get, holds_home=True, linger_s=float("inf")),
        Command(name="save", run=fetching.save),
        Command(name="downloads", run=downloads.downloads),
        Command(name="stream", run=streams.stream, holds_home=True, takes_input=True),
        Command(name="watch", run=streams.watch, holds_home=True, linger_s=float("inf")),
        Command(
            name="settings",
            run=settings.settings,
            makes_home=lambda params: bool(params["is_change"]),
            run_without_home=settings.settings_without_home,
        ),
    )
}
