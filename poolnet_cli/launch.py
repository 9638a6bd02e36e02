"""From a parsed command line to an exit code: output, signals, errors."""

import contextlib
import logging
import os
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import click
import trio

from poolnet import printable
from poolnet_cli.command import Params
from poolnet_cli.commands import COMMANDS
from poolnet_cli.ink import ink_for
from poolnet_cli.lines import Input
from poolnet_cli.options import Settings
from poolnet_cli.outcome import DONE, INTERRUPTED, USAGE, Outcome, outcome_of
from poolnet_cli.records import failure_record
from poolnet_cli.render import renderer_for
from poolnet_cli.reporter import Reporter
from poolnet_cli.runner import MakeInput, Runner, until_signalled
from poolnet_cli.terminal import (
    STDERR,
    STDIN,
    STDOUT,
    JsonReporter,
    TextReporter,
    json_line,
    write_text_now,
)

INTERRUPTED_TEXT: Final = "interrupted"

LocalReporter = JsonReporter | TextReporter
Wrap = Callable[[Reporter], Reporter]
#: Whether ending a command by SIGTERM is its success, known when that happens.
Stays = Callable[[], bool]


def run_on_home(
    settings: Settings,
    name: str,
    params: Params,
    *,
    stays: bool | Stays = False,
    make_input: MakeInput | None = None,
    reads_lines: bool = False,
    wrap: Wrap | None = None,
    interrupted: str = INTERRUPTED_TEXT,
) -> int:
    """Run a command on the home; return the exit code.

    Args:
        stays: it has no end of its own (any more).
        make_input: makes what goes into it.
        reads_lines: that is what a person types.
        wrap: puts something around the reporter.
        interrupted: what to say when a signal ends it before it is done.

    Raises:
        Whatever made it fail.
    """
    reporter = make_reporter(settings, name, has_prompt=reads_lines)
    home = settings.home.absolute()
    runner = Runner(commands=COMMANDS, home=home, bind=settings.bind, limits=settings.limits)
    make = make_input or Input
    if reads_lines and isinstance(reporter, TextReporter):
        make = partial(_prompting, reporter, make)
    shown = reporter if wrap is None else wrap(reporter)
    work = partial(runner.run, name, params, shown, make)
    return run_until_signalled(work, reporter, stays=stays, interrupted=interrupted)


def _prompting(reporter: TextReporter, make_input: MakeInput) -> Input:
    """Return input whose lines are typed at a prompt."""
    given = make_input()
    return Input(lines=reporter.prompting(given.lines), data=given.data)


def until_output_closes(run: Callable[[], int]) -> int:
    """Run what writes until nobody reads any more, which is no failure; return the exit code."""
    try:
        return run()
    except BaseException as exc:
        if outcome_of(exc).code == "output_closed":
            return DONE
        raise


def run_until_signalled(
    work: Callable[[], Awaitable[None]],
    reporter: LocalReporter,
    *,
    stays: bool | Stays,
    second_ends: bool = True,
    interrupted: str = INTERRUPTED_TEXT,
) -> int:
    """Run `work` in a new event loop, to its end or a signal; return the exit code."""

    async def work_and_finish() -> None:
        await work()
        await reporter.finish()

    has_no_end = stays if callable(stays) else lambda: stays
    try:
        code = trio.run(partial(until_signalled, work_and_finish, stays=has_no_end, second_ends=second_ends))
    finally:
        reporter.close()
    if code == INTERRUPTED and not has_no_end():
        outcome = Outcome(exit_code=INTERRUPTED, code="interrupted", message=interrupted)
        tell(outcome, as_json=isinstance(reporter, JsonReporter))
    return code


def make_reporter(settings: Settings, command: str, *, has_prompt: bool = False) -> LocalReporter:
    """Return what shows the output of a command.

    Args:
        has_prompt: it reads typed lines, so that there is a prompt where these are typed at a terminal.
    """
    set_up_logging(verbose=settings.verbose)
    if settings.as_json:
        return JsonReporter()
    ink = ink_for(STDOUT)
    has_prompt = has_prompt and ink.is_terminal and os.isatty(STDIN)
    return TextReporter(renderer_for(command, ink, folds=has_prompt), ink, has_prompt=has_prompt)


def set_up_logging(*, verbose: bool) -> None:
    """Log to standard error if asked for, else not at all: what matters comes as events and errors."""
    root = logging.getLogger()
    if verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(_PrintableFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        logging.basicConfig(handlers=[handler], level=logging.INFO)
        logging.getLogger("poolnet").setLevel(logging.DEBUG)
    elif not root.handlers:
        root.addHandler(logging.NullHandler())


class _PrintableFormatter(logging.Formatter):
    """Writes out what others may have put into a line, such as the name of a file."""

    def format(self, record: logging.LogRecord) -> str:
        return _printable_lines(super().format(record))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def tell_usage(error: click.ClickException, settings: Settings) -> int:
    """Say that the command line is wrong; return the exit code."""
    if settings.as_json:
        write_text_now(
            STDOUT, json_line(failure_record(Outcome(exit_code=USAGE, code="usage", message=error.format_message())))
        )
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None and error.message == context.get_help():  # nothing was typed: the help itself
        error.show()
        return USAGE
    path = "poolnet" if context is None else context.command_path  # the parser of click does not always know
    hint = f" ({path} --help shows what can be typed)"
    write_text_now(STDERR, f"poolnet: {printable(error.format_message())}{hint}\n")
    return USAGE


def tell_failure(error: BaseException, settings: Settings) -> int:
    """Say in one sentence why a command failed; return the exit code."""
    outcome = outcome_of(error)
    if settings.verbose:
        write_text_now(STDERR, _printable_lines("".join(traceback.format_exception(error))))
    if outcome.code != "output_closed":
        tell(outcome, as_json=settings.as_json)
    return outcome.exit_code


def tell(outcome: Outcome, *, as_json: bool) -> None:
    """Say how a command ended, in one sentence."""
    with contextlib.suppress(OSError):
        if as_json:
            write_text_now(STDOUT, json_line(failure_record(outcome)))
        write_text_now(STDERR, f"poolnet: {printable(outcome.message)}\n")
