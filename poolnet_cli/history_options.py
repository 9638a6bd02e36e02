"""The options of `poolnet history`: which go together, and what they come to as parameters of the command."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from poolnet_cli.arguments import WHOLE_PATH
from poolnet_cli.command import Params
from poolnet_cli.options import Moment

F = TypeVar("F", bound=Callable[..., Any])

#: What an export is written as, by the end of the file's name.
_FORMAT_OF_SUFFIX: Final = {".jsonl": "jsonl", ".md": "markdown", ".markdown": "markdown"}
#: With which others each option that says *what* to show may stand.
_PARTNERS: Final = {
    "--sessions": {"--limit"},
    "--session": {"--limit"},
    "--around": {"--limit"},
    "--export": {"--format"},
    "--search": {"--limit", "--since", "--until", "--before"},
    "--before": {"--limit", "--search"},
    "--since": {"--limit", "--until", "--search"},
    "--until": {"--limit", "--since", "--search"},
    "--format": {"--export"},
}


def history_options(function: F) -> F:
    """Add the options to a command."""
    option = partial(click.option, show_envvar=True)
    for add in reversed(
        (
            option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many at most."),
            option("--before", metavar="ID", help="Those before this message (its id, or the beginning of it)."),
            option("--around", metavar="ID", help="This message, and those before and after it."),
            option("--since", type=Moment(), metavar="TIME", help="From then on: 2026-11-20, 08:40, yesterday, 2h."),
            option("--until", type=Moment(is_end=True), metavar="TIME", help="Up to then; a day is included."),
            option("--search", metavar="WORDS", help='With all these words; word* and "several words" work.'),
            option("--session", type=click.IntRange(min=1), metavar="N", help="The N-th session; 1 is the latest."),
            option("--sessions", is_flag=True, help="List the sessions: talk without a pause of half an hour."),
            option("--export", type=WHOLE_PATH, metavar="FILE", help="Write all of it to a new file."),
            option("--format", type=click.Choice(["jsonl", "markdown"]), help="Of --export (default: by its suffix)."),
        )
    ):
        function = add(function)
    return function


def history_params(given: dict[str, Any]) -> Params:
    """Return the parameters of the command for the values of the options.

    Raises:
        click.UsageError: they do not go together.
    """
    _check_partners({f"--{name}" for name, value in given.items() if value is not None and value is not False})
    if None not in (given["since"], given["until"]) and given["since"] >= given["until"]:
        raise click.UsageError("--since is not before --until, so there is nothing between them")
    export = given["export"]
    return {
        "limit": given["limit"],
        "before": given["before"],
        "around": given["around"],
        "since_ms": given["since"],
        "until_ms": given["until"],
        "search": _words(given["search"]),
        "session": given["session"],
        "sessions": given["sessions"],
        "export": None if export is None else str(export),
        "format": _export_format(export, given["format"]),
    }


def _check_partners(given: set[str]) -> None:
    given = given - (set() if _is_limit_typed() else {"--limit"})
    for name in sorted(given & _PARTNERS.keys()):
        strangers = sorted(given - _PARTNERS[name] - {name})
        if strangers:
            raise click.UsageError(f"{name} and {strangers[0]} do not go together")
    if "--format" in given and "--export" not in given:
        raise click.UsageError("--format says how to write an --export FILE, which is missing")


def _is_limit_typed() -> bool:
    """Return whether the limit was asked for this time; what the environment says is for when it fits."""
    source = click.get_current_context().get_parameter_source("limit")
    return source == click.core.ParameterSource.COMMANDLINE


def _words(text: str | None) -> str | None:
    if text is not None and not any(char.isalnum() for char in text):
        raise click.UsageError("--search needs a word to search for")
    return text


def _export_format(path: Path | None, chosen: str | None) -> str | None:
    if path is None or chosen is not None:
        return chosen
    by_suffix = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if by_suffix is None:
        raise click.UsageError("the name of the --export ends neither in .jsonl nor in .md; say which with --format")
    return by_suffix
