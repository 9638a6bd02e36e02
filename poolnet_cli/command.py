"""The shape of a command, and how it is run: here, or in the process that holds the home.

A command is an async function of a session, its parameters (JSON values; paths absolute, because the command may run in
a process with another working directory), a reporter, and what goes into it: typed lines, or bytes.
`Command.holds_home` says that it stays for long, so that other commands in the same home must be able to reach it.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs

from poolnet_cli.lines import Input
from poolnet_cli.reporter import Reporter
from poolnet_cli.session import Session

Params = dict[str, Any]


@attrs.frozen(kw_only=True)
class Call:
    """One run of a command: what it works on, what was asked, where it reports, what goes into it."""

    session: Session
    params: Params
    reporter: Reporter
    input: Input


#: Ends when the command is done; raises PoolnetError or OSError if it cannot be.
Run = Callable[[Call], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Command:
    """A command that works on a home."""

    name: str
    run: Run
    #: It may stay for long: while it runs, others use the home through it.
    holds_home: bool = False
    #: When it is done, how long commands of others that use the home through it may take to finish.
    linger_s: float = 2.0
    #: Whether a home is made for it where there is none: it begins something. Others have nothing to work on there.
    makes_home: Callable[[Params], bool] = lambda _params: False
    #: What it does instead where there is no home; without it, it fails because there is no such pool.
    run_without_home: Callable[[Path, Params, Reporter], Awaitable[None]] | None = None
    #: It reads typed lines, or bytes.
    takes_input: bool = False
