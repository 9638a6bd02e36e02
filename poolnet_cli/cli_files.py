"""What can be typed about files, folders, pictures, streams and what they may take: part of the command line."""

import os
from pathlib import Path
from typing import Any, Final

import click

from poolnet_cli import launch
from poolnet_cli.arguments import POOL, WHOLE_PATH, WholePath
from poolnet_cli.command import Params
from poolnet_cli.lines import FileData, Input
from poolnet_cli.options import Duration, Settings, global_options, limit_options, option, pass_settings
from poolnet_cli.reporter import Record, Reporter
from poolnet_cli.settings import SETTINGS

_FROM_STDIN: Final = "-"
_NO_ACTION: Final[Params] = {"action": None, "file": None, "priority": None}
_GOES_ON: Final = "interrupted; the same command goes on from here"


class _Source(WholePath):
    """A file to be read, or standard input."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value is None or value == _FROM_STDIN:
            return None
        path = super().convert(value, param, ctx)
        if not os.path.exists(path):
            self.fail(f"{value} is not there", param, ctx)
        if os.path.isdir(path):
            self.fail(f"{value} is a folder; poolnet offer takes those", param, ctx)
        return path


@click.command()
@click.argument("pool", type=POOL)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=WHOLE_PATH)
@option("--name", metavar="NAME", help="What others see, instead of its own name.")
@option("--media", is_flag=True, help="Show pictures: everybody fetches them at once.")
@option("--exclude", metavar="PATTERN", multiple=True, help="Of folders, leave out what this matches: '*.tmp', build/.")
@option("--hidden", is_flag=True, help="Of folders, offer what begins with a dot, too.")
@limit_options
@global_options(is_root=False)
@pass_settings
def offer(
    settings: Settings,
    pool: str,
    paths: tuple[Path, ...],
    name: str | None,
    media: bool,
    exclude: tuple[str, ...],
    hidden: bool,
) -> int:
    """Offer files and folders in POOL. Prints "file_id  name" for each.

    Unless a join runs in this home, this stays and gives them to whoever fetches them, until interrupted.
    """
    if name is not None and len(paths) > 1:
        raise click.UsageError("--name is for one PATH")
    options = {"name": name, "media": media, "exclude": list(exclude), "hidden": hidden}
    params = {"pool": pool, "paths": [str(path) for path in paths], **options}
    return launch.run_on_home(settings, "offer", params, stays=True)


@click.command()
@click.argument("pool", type=POOL)
@option("--in", "folder", metavar="FOLDER", help="List what is in this folder instead; only its list is fetched.")
@option("--timeout", type=Duration(), default="30s", show_default=True, help="How long to wait for that list.")
@global_options(is_root=False)
@pass_settings
def files(settings: Settings, pool: str, folder: str | None, timeout: float) -> int:
    """List the files on offer in POOL, as far as this device knows.

    FOLDER is its name, or the beginning of its id.
    """
    if folder is not None:
        return launch.run_on_home(settings, "contents", {"pool": pool, "folder": folder, "timeout_s": timeout})
    return launch.run_on_home(settings, "files", {"pool": pool})


@click.command()
@click.argument("pool", type=POOL)
@click.argument("files", metavar="FILE...", nargs=-1)
@option("--all", "all_", is_flag=True, help="Everything that is offered and not here.")
@option(
    "--out",
    type=WHOLE_PATH,
    default=".",
    show_default=True,
    help="A directory; for one FILE also a path that does not exist.",
)
@option(
    "--only", metavar="PATH", multiple=True, help="Of a folder, this file or subfolder only, or a pattern: '*.jpg'."
)
@option("--kind", type=click.Choice(["file", "folder", "media"]), help="Of a FILE that is offered as several, this.")
@option("--priority", type=int, default=0, show_default=True, help="Of several, those with a higher one go first.")
@option("--background", is_flag=True, help="Return at once; the join that runs in this home fetches it.")
@option("--timeout", type=Duration(), default="30s", show_default=True, help="How long to wait for the first of it.")
@limit_options
@global_options(is_root=False)
@pass_settings
def get(
    settings: Settings,
    pool: str,
    files: tuple[str, ...],
    all_: bool,
    out: Path,
    only: tuple[str, ...],
    kind: str | None,
    priority: int,
    background: bool,
    timeout: float,
) -> int:
    """Fetch FILEs from POOL, several at once. Prints the paths.

    FILE is the name of a file, folder or picture, or the beginning of its id.

    What was interrupted goes on where it was when the same command is run again.
    """
    if bool(files) == all_:
        raise click.UsageError("name the FILEs to fetch, or fetch what is not here with --all")
    if (all_ or len(files) > 1) and not os.path.isdir(out):
        raise click.UsageError(f"--out {out} is not a directory; several files need one that is there")
    if only and len(files) != 1:
        raise click.UsageError("--only is for one FILE that is a folder")
    choice = {"files": list(files), "all": all_, "only": list(only), "kind": kind}
    how = {"out": str(out), "priority": priority, "background": background, "timeout_s": timeout}
    return launch.run_on_home(settings, "get", {"pool": pool, **choice, **how}, interrupted=_GOES_ON)


@click.command()
@click.argument("pool", type=POOL)
@click.argument("file")
@click.argument("out", type=WHOLE_PATH)
@global_options(is_root=False)
@pass_settings
def save(settings: Settings, pool: str, file: str, out: Path) -> int:
    """Copy the picture FILE of POOL to OUT. Prints the path.

    Pictures that are shown are fetched into a cache, which forgets the oldest. OUT is a directory, or a path that does
    not exist.
    """
    return launch.run_on_home(settings, "save", {"pool": pool, "file": file, "out": str(out)})


@click.command()
@click.argument("pool", type=POOL)
@option("--pause", metavar="FILE", help="Let it stand still, also after a restart.")
@option("--resume", metavar="FILE", help="Go on with it, or try it again if it failed.")
@option("--cancel", metavar="FILE", help="End it, and remove what was fetched of it.")
@option("--priority", type=(str, int), metavar="FILE N", help="Those with a higher one go first.")
@option("--forget", is_flag=True, help="Forget those that have ended; their files stay.")
@global_options(is_root=False)
@pass_settings
def downloads(
    settings: Settings,
    pool: str,
    pause: str | None,
    resume: str | None,
    cancel: str | None,
    priority: tuple[str, int] | None,
    forget: bool,
) -> int:
    """List the downloads of POOL, or change one of them.

    Those that get --background started, those of a join, and what became of them.
    """
    named = {"pause": pause, "resume": resume, "cancel": cancel}
    chosen: list[Params] = [
        {**_NO_ACTION, "action": action, "file": file} for action, file in named.items() if file is not None
    ]
    if priority is not None:
        chosen.append({"action": "priority", "file": priority[0], "priority": priority[1]})
    if forget:
        chosen.append({**_NO_ACTION, "action": "forget"})
    if len(chosen) > 1:
        raise click.UsageError("change one thing at a time")
    return launch.run_on_home(settings, "downloads", {"pool": pool, **(chosen[0] if chosen else _NO_ACTION)})


@click.command()
@click.argument("pool", type=POOL)
@click.argument("file", required=False)
@option("--message", metavar="ID", help="Take this message back instead (its id, or the beginning of it).")
@option("--timeout", type=Duration(), default="5s", show_default=True, help="How long to look for somebody to tell.")
@global_options(is_root=False)
@pass_settings
def retract(settings: Settings, pool: str, file: str | None, message: str | None, timeout: float) -> int:
    """Withdraw this device's offer of FILE from POOL, or take a message back.

    A message is taken back by who wrote it, or by an admin. Its text is deleted on every device.
    """
    if (file is None) == (message is None):
        raise click.UsageError("name either a FILE that is offered, or a message with --message ID")
    params = {"pool": pool, "file": file, "message": message, "timeout_s": timeout}
    return launch.run_on_home(settings, "retract", params)


@click.command()
@click.argument("pool", type=POOL)
@click.argument("file", default=_FROM_STDIN, type=_Source())
@option("--name", metavar="NAME", help="What others watch (default: the name of FILE).")
@limit_options
@global_options(is_root=False)
@pass_settings
def stream(settings: Settings, pool: str, file: Path | None, name: str | None) -> int:
    """Publish standard input in POOL, or FILE, as it comes. Prints "file_id  name".

    Whoever watches it gets the bytes while they come. When it has ended it is a file that is offered: unless a join
    runs in this home, this stays and gives it to whoever fetches it, until interrupted.
    """
    if name is None and file is None:
        raise click.UsageError("say by --name what others watch")
    params = {"pool": pool, "name": name or (file.name if file is not None else "")}
    end = _NoticesEnd()
    return launch.run_on_home(
        settings,
        "stream",
        params,
        stays=lambda: end.has_ended,
        make_input=lambda: Input(data=FileData(file)),
        wrap=end.wrap,
    )


@click.command()
@click.argument("pool", type=POOL)
@click.argument("stream", metavar="NAME")
@option("--from-start", is_flag=True, help="From its first byte on; nothing is skipped.")
@option("--timeout", type=Duration(), default="30s", show_default=True, help="How long to look for the stream.")
@limit_options
@global_options(is_root=False)
@pass_settings
def watch(settings: Settings, pool: str, stream: str, from_start: bool, timeout: float) -> int:
    """Write the stream NAME of POOL to standard output as it comes, until it ends.

    NAME may also be the beginning of its id. What does not come in time is skipped, unless it is watched from its
    start.
    """
    params = {"pool": pool, "stream": stream, "from_start": from_start, "timeout_s": timeout}
    return launch.until_output_closes(lambda: launch.run_on_home(settings, "watch", params))


@click.command("settings", context_settings={"ignore_unknown_options": True})  # so that -5 is a wrong VALUE
@click.argument("name", required=False, type=click.Choice(list(SETTINGS)))
@click.argument("value", required=False)
@global_options(is_root=False)
@pass_settings
def settings_(settings: Settings, name: str | None, value: str | None) -> int:
    """List what this device may take, or set NAME to VALUE.

    VALUE is a size such as 500K, 2M or 1G (of limits a second, or "none"), a number of downloads, on or off; or
    "default". Options of join, offer, get, stream and watch win over it. A join that runs obeys at once.
    """
    parsed: int | bool | None = None
    if name is not None and value is not None and value.lower() != "default":
        try:
            parsed = SETTINGS[name].parse(value)
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc
    params = {"name": name, "is_change": value is not None, "value": parsed}
    return launch.run_on_home(settings, "settings", params)


FILE_COMMANDS: Final = (offer, files, get, save, downloads, retract, stream, watch, settings_)


class _NoticesEnd:
    """Passes on what a stream reports, and notices that it has ended: to be stopped then is no failure."""

    def __init__(self) -> None:
        self.has_ended = False

    def wrap(self, reporter: Reporter) -> Reporter:
        """Begin to pass on to `reporter`."""
        self._reporter = reporter
        self.progress = reporter.progress
        self.note = reporter.note
        self.data = reporter.data
        return self

    async def record(self, record: Record) -> None:
        await self._reporter.record(record)
        self.has_ended |= record["event"] == "stream_ended"
