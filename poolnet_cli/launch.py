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
from poolnet_cli.lines import NoLines
from poolnet_cli.options import Settings
from poolnet_cli.outcome import INTERRUPTED, USAGE, Outcome, outcome_of
from poolnet_cli.records import failure_record
from poolnet_cli.render import renderer_for
from poolnet_cli.reporter import Reporter
from poolnet_cli.runner import Lines, Runner, until_signalled
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


def run_on_home(
    settings: Settings,
    name: str,
    params: Params,
    *,
    stays: bool = False,
    lines: Lines | None = None,
    wrap: Wrap | None = None,
    interrupted: str = INTERRUPTED_TEXT,
) -> int:
    """Run a command on the home; return the exit code.

    Args:
        stays: it has no end of its own.
        lines: what is typed into it.
        wrap: puts something around the reporter.
        interrupted: what to say when a signal ends it before it is done.

    Raises:
        Whatever made it fail.
    """
    reporter = make_reporter(settings, name, has_input=lines is not None)
    runner = Runner(commands=COMMANDS, home=settings.home.expanduser().absolute(), bind=settings.bind)
    typed = lines or NoLines
    if isinstance(reporter, TextReporter):
        typed = partial(reporter.prompting, typed)
    shown = reporter if wrap is None else wrap(reporter)
    work = partial(runner.run, name, params, shown, typed)
    return run_until_signalled(work, reporter, stays=stays, interrupted=interrupted)


def run_until_signalled(
    work: Callable[[], Awaitable[None]],
    reporter: LocalReporter,
    *,
    stays: bool,
    second_ends: bool = True,
    interrupted: str = INTERRUPTED_TEXT,
) -> int:
    """Run `work` in a new event loop, to its end or a signal; return the exit code."""

    async def work_and_finish() -> None:
        await work()
        await reporter.finish()

    try:
        code = trio.run(partial(until_signalled, work_and_finish, stays=stays, second_ends=second_ends))
    finally:
        reporter.close()
    if code == INTERRUPTED and not stays:
        outcome = Outcome(exit_code=INTERRUPTED, code="interrupted", message=interrupted)
        tell(outcome, as_json=isinstance(reporter, JsonReporter))
    return code


def make_reporter(settings: Settings, command: str, *, has_input: bool = False) -> LocalReporter:
    """Return what shows the output of a command."""
    set_up_logging(verbose=settings.verbose)
    if settings.as_json:
        return JsonReporter()
    ink = ink_for(STDOUT)
    has_prompt = has_input and ink.is_terminal and os.isatty(STDIN)
    return TextReporter(renderer_for(command, ink, folds=has_prompt), ink, has_prompt=has_prompt)


def set_up_logging(*, verbose: bool) -> None:
    """Log to standard error if asked for, else not at all: what matters comes as events and errors."""
    root = logging.getLogger()
    if verbose:
        logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=logging.INFO)
        logging.getLogger("poolnet").setLevel(logging.DEBUG)
    elif not root.handlers:
        root.addHandler(logging.NullHandler())


def tell_usage(error: click.ClickException, settings: Settings) -> int:
    """Say that the command line is wrong; return the exit code."""
    if settings.as_json:
        write_text_now(
            STDOUT, json_line(failure_record(Outcome(exit_code=USAGE, code="usage", message=error.format_message())))
        )
    if isinstance(error, click.UsageError) and error.ctx is not None and error.message != error.ctx.get_help():
        hint = f" ({error.ctx.command_path} --help shows what can be typed)"
        write_text_now(STDERR, f"poolnet: {printable(error.format_message())}{hint}\n")
    else:  # nothing was typed: the help itself
        error.show()
    return USAGE


def tell_failure(error: BaseException, settings: Settings) -> int:
    """Say in one sentence why a command failed; return the exit code."""
    outcome = outcome_of(error)
    if settings.verbose:
        traceback.print_exception(error)
    if outcome.code != "output_closed":
        tell(outcome, as_json=settings.as_json)
    return outcome.exit_code


def tell(outcome: Outcome, *, as_json: bool) -> None:
    """Say how a command ended, in one sentence."""
    with contextlib.suppress(OSError):
        if as_json:
            write_text_now(STDOUT, json_line(failure_record(outcome)))
        write_text_now(STDERR, f"poolnet: {outcome.message}\n")
