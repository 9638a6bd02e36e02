"""The `poolnet` command line: what can be typed. How it is run is in `launch`, what it does in `commands`.

What can be typed about files is in `cli_files`.
"""

import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from poolnet import LocalError, parse_invite_link
from poolnet.limits import DEFAULT_INVITE_LIFETIME_S, MAX_TEXT_CHARS
from poolnet_cli import launch
from poolnet_cli.arguments import POOL, WHOLE_PATH, is_invite
from poolnet_cli.cli_files import FILE_COMMANDS
from poolnet_cli.commands.serve import serve as run_server
from poolnet_cli.demo import run_demo
from poolnet_cli.history_options import history_options, history_params
from poolnet_cli.ink import ink_for
from poolnet_cli.launch import make_reporter, run_until_signalled, tell_failure, tell_usage
from poolnet_cli.lines import Input, StandardInputLines, read_all, read_first_line
from poolnet_cli.options import (
    ENVIRONMENT_PREFIX,
    INVITE_VARIABLE,
    SERVER_PORT,
    Duration,
    ServerLink,
    Settings,
    global_options,
    limit_options,
    option,
    pass_settings,
)
from poolnet_cli.qr import draw_qr
from poolnet_cli.reporter import Record, Reporter
from poolnet_cli.terminal import STDERR, rows_for_feed, write_text

#: Bytes of standard input that `send -` reads: more than any text, so that what is too long is told as such.
_MAX_STDIN_TEXT: Final = 16 * MAX_TEXT_CHARS
_FROM_STDIN: Final = "-"
#: What an invite has room for.
_MAX_USES: Final = 2**32 - 1

server_timeout = option(
    "--timeout", type=Duration(), default="15s", show_default=True, help="How long to wait for the sync server."
)


def run() -> int:
    """Run the command line of this process; return its exit code."""
    settings = Settings(as_json="--json" in sys.argv[1:])
    try:
        code = cli.main(prog_name="poolnet", obj=settings, standalone_mode=False, auto_envvar_prefix=ENVIRONMENT_PREFIX)
    except click.ClickException as exc:
        return tell_usage(exc, settings)
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as exc:  # whatever it is, it ends in one sentence and an exit code
        return tell_failure(exc, settings)
    return int(code or 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="poolnet", message="poolnet %(version)s")
@global_options(is_root=True)
def cli() -> None:
    """Talk and pass files around in a pool of devices, without a server in between.

    Every option may also come from the environment: POOLNET_HOME, POOLNET_SERVE_LISTEN and so on.
    """


@cli.command()
@option("--listen", type=SERVER_PORT, default="[::]", metavar="HOST:PORT", show_default=True)
@option("--data", type=WHOLE_PATH, help="Its directory (default: server/ in the home).")
@option("--public-host", metavar="HOST", help="The host that others reach it by, for its address.")
@global_options(is_root=False)
@pass_settings
def serve(settings: Settings, listen: tuple[str, int], data: Path | None, public_host: str | None) -> int:
    """Run a sync server. Prints its address.

    It brings the members of pools together, and carries neither messages nor files.
    """
    directory = data or settings.home / "server"
    params = {"host": listen[0], "port": listen[1], "data": str(directory.absolute()), "public_host": public_host}
    reporter = make_reporter(settings, "serve")
    return run_until_signalled(lambda: run_server(params, reporter), reporter, stays=True)


@cli.command()
@click.argument("name")
@option("--server", type=ServerLink(), metavar="ADDRESS", help="A sync server; without it, this device runs one.")
@server_timeout
@global_options(is_root=False)
@pass_settings
def create(settings: Settings, name: str, server: str | None, timeout: float) -> int:
    """Make a pool called NAME. Prints an invite link."""
    return launch.run_on_home(settings, "create", {"name": name, "server": server, "timeout_s": timeout})


@cli.command()
@click.argument("pool", type=POOL)
@option("--uses", type=click.IntRange(1, _MAX_USES), metavar="N", help="How many devices may use it (default: any).")
@option(
    "--expires",
    type=Duration(),
    default=f"{DEFAULT_INVITE_LIFETIME_S // 86400}d",
    show_default=True,
    help="How long it is good: 90s, 12h, 7d, 2w.",
)
@option("--qr", is_flag=True, help="Draw it in the terminal, too.")
@server_timeout
@global_options(is_root=False)
@pass_settings
def invite(settings: Settings, pool: str, uses: int | None, expires: float, qr: bool, timeout: float) -> int:
    """Make another invite into POOL. Prints the link."""
    params = {"pool": pool, "uses": uses, "expires_s": expires, "timeout_s": timeout}
    return launch.run_on_home(settings, "invite", params, wrap=_WithQr if qr else None)


@cli.command()
@click.argument("pool_or_invite", envvar=INVITE_VARIABLE)
@option("--name", metavar="WHO", help="How others see this device.")
@server_timeout
@limit_options
@global_options(is_root=False)
@pass_settings
def join(settings: Settings, pool_or_invite: str, name: str | None, timeout: float) -> int:
    """Enter a pool and stay in it.

    What happens is printed, typed lines are messages, /help shows the rest.

    POOL_OR_INVITE is a pool of this device or an invite link. The link is a secret: it may also come from
    POOLNET_INVITE, or as the first line of standard input if this is "-".
    """
    target = (read_first_line() if pool_or_invite == _FROM_STDIN else pool_or_invite).strip()
    if not target:
        raise click.UsageError("no invite was given, and no pool of this device")
    if is_invite(target):
        parse_invite_link(target)  # before a home is made for it
    rows = None if settings.as_json else rows_for_feed()
    params = {"pool": target, "name": name, "cwd": os.getcwd(), "timeout_s": timeout, "rows": rows}
    return launch.run_on_home(
        settings, "join", params, stays=True, make_input=lambda: Input(lines=StandardInputLines()), reads_lines=True
    )


@cli.command()
@click.argument("pool", type=POOL)
@click.argument("text", nargs=-1, required=True)
@option("--timeout", type=Duration(), default="30s", show_default=True, help="How long to look for somebody.")
@global_options(is_root=False)
@pass_settings
def send(settings: Settings, pool: str, text: tuple[str, ...], timeout: float) -> int:
    """Send TEXT to everybody in POOL. Prints the message's id.

    "-" is standard input. Enters the pool for it unless a join runs in this home, and leaves when a neighbour has the
    message.
    """
    content = _text_from_stdin() if text == (_FROM_STDIN,) else " ".join(text)
    return launch.run_on_home(settings, "send", {"pool": pool, "text": content, "timeout_s": timeout})


@cli.command()
@click.argument("pool", type=POOL)
@click.argument("text", nargs=-1, required=True)
@option("--timeout", type=Duration(), default="30s", show_default=True, help="How long to look for somebody.")
@global_options(is_root=False)
@pass_settings
def announce(settings: Settings, pool: str, text: tuple[str, ...], timeout: float) -> int:
    """Announce TEXT in POOL, as an admin. Prints the message's id.

    Everybody keeps the latest announcement in sight. For the rest it is like send.
    """
    content = _text_from_stdin() if text == (_FROM_STDIN,) else " ".join(text)
    return launch.run_on_home(settings, "announce", {"pool": pool, "text": content, "timeout_s": timeout})


@cli.command()
@click.argument("pool", type=POOL)
@history_options
@global_options(is_root=False)
@pass_settings
def history(settings: Settings, /, pool: str, **given: Any) -> int:
    """Print messages of POOL, list its sessions, or export it.

    The newest ones that this device has, oldest first. Where a join runs, the others are asked for what is missing.
    """
    return launch.run_on_home(settings, "history", {"pool": pool, **history_params(given)})


@cli.command()
@click.argument("pool", type=POOL)
@option("--for", "for_s", type=Duration(), metavar="DURATION", help="Delete what is older: 90d, 52w.")
@option("--messages", type=click.IntRange(min=1), metavar="N", help="Delete all but the newest so many.")
@option("--everything", is_flag=True, help="Keep everything, as at first.")
@global_options(is_root=False)
@pass_settings
def keep(settings: Settings, pool: str, for_s: float | None, messages: int | None, everything: bool) -> int:
    """Show or set how much of POOL's history this device keeps.

    Without an option it is shown. Other devices keep what they want.
    """
    if everything and (for_s is not None or messages is not None):
        raise click.UsageError("--everything does not go together with a limit")
    params = {"pool": pool, "for_s": for_s, "messages": messages, "everything": everything}
    return launch.run_on_home(settings, "keep", params)


@cli.command()
@click.argument("pool", type=POOL)
@option("--synced", is_flag=True, help="Until this device and its neighbours have the same history.")
@option("--timeout", type=Duration(), default="30s", show_default=True, help="How long to wait.")
@global_options(is_root=False)
@pass_settings
def wait(settings: Settings, pool: str, synced: bool, timeout: float) -> int:
    """Wait until POOL is as it should be: with --synced, until this device and its neighbours agree.

    Enters the pool for it unless a join runs in this home. The exit code is 3 if that took longer.
    """
    if not synced:
        raise click.UsageError("say what to wait for: --synced")
    return launch.run_on_home(settings, "wait", {"pool": pool, "timeout_s": timeout})


@cli.command()
@click.argument("pool", type=POOL)
@option("--all", "all_", is_flag=True, help="Members that are away, too.")
@option("--timeout", type=Duration(), default="10s", show_default=True, help="How long to look for somebody.")
@global_options(is_root=False)
@pass_settings
def peers(settings: Settings, pool: str, all_: bool, timeout: float) -> int:
    """List who is in POOL, and the links to them."""
    return launch.run_on_home(settings, "peers", {"pool": pool, "all": all_, "timeout_s": timeout})


@cli.command()
@global_options(is_root=False)
@pass_settings
def status(settings: Settings) -> int:
    """List the pools of this device."""
    return launch.run_on_home(settings, "status", {})


@cli.command()
@click.argument("pool", type=POOL)
@global_options(is_root=False)
@pass_settings
def leave(settings: Settings, pool: str) -> int:
    """Leave POOL for good.

    Its history and settings are removed from this device, fetched files stay.
    """
    return launch.run_on_home(settings, "leave", {"pool": pool})


@cli.command()
@click.argument("file", required=False, type=WHOLE_PATH)
@option("--nodes", type=click.IntRange(2, 20), default=5, show_default=True, help="How many devices.")
@global_options(is_root=False)
@pass_settings
def demo(settings: Settings, file: Path | None, nodes: int) -> int:
    """See it all work on this machine.

    A sync server and several devices, each a process of its own, talk and pass FILE around.
    Without FILE a temporary one of 64 MiB is used.
    """
    return run_demo(file, nodes=nodes, settings=settings)


for _command in FILE_COMMANDS:
    cli.add_command(_command)


def _text_from_stdin() -> str:
    try:
        return read_all(_MAX_STDIN_TEXT).decode().rstrip("\r\n")
    except UnicodeDecodeError as exc:
        raise LocalError("standard input is not text in UTF-8; offer it as a file instead") from exc


class _WithQr:
    """Draws invites on standard error as they are reported."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.progress = reporter.progress
        self.note = reporter.note
        self.data = reporter.data

    async def record(self, record: Record) -> None:
        await self._reporter.record(record)
        await write_text(STDERR, draw_qr(record["invite"], has_colours=ink_for(STDERR).is_terminal))
