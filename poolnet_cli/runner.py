"""Runs a command where it belongs: in the process that already holds the home, else here.

Signals: SIGINT, SIGTERM and SIGHUP cancel what runs, and everything that was opened closes as it does at any other end
(goodbyes to the peers, stores synced). A second one ends the process at once.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from poolnet import LocalError, StoreLocked, UnknownPool
from poolnet_cli.command import Call, Command, Params
from poolnet_cli.control import connect_control, open_control_server, run_remotely
from poolnet_cli.lines import Input
from poolnet_cli.outcome import DONE, INTERRUPTED
from poolnet_cli.patience import told_if_slow
from poolnet_cli.reporter import Reporter
from poolnet_cli.session import Session, open_session
from poolnet_cli.settings import Limits

#: How long to wait for the socket of a process that has just taken the home's lock, or is about to let it go.
HANDOVER_S: Final = 1.0
_HANDOVER_POLL_S: Final = 0.05

_NOT_HERE: Final = (
    "the limits of the poolnet that runs in this home count, not the options given here; poolnet settings changes them"
)

MakeInput = Callable[[], Input]


@attrs.frozen(kw_only=True)
class Runner:
    """Runs commands on one home.

    Args:
        commands: all that the control socket offers, by name.
        home: the home directory.
        bind: where a node's UDP socket is bound, if it runs here.
        limits: options of this run, which win over the home's settings.
    """

    commands: dict[str, Command]
    home: Path
    bind: tuple[str, int]
    limits: Limits = Limits()

    async def run(self, name: str, params: Params, reporter: Reporter, make_input: MakeInput) -> None:
        """Run a command to its end.

        Args:
            make_input: makes what goes into it; called again if a process that should run it ends before it begins.

        Raises:
            UnknownPool: there is no home, and it works on one; nothing is made.
            StoreLocked: another process holds the home and does not take commands.
            CommandFailed: it failed in the process that holds the home.
            PoolnetError, OSError, ExceptionGroup of them: it failed here.
        """
        command = self.commands[name]
        if not command.makes_home(params) and not await trio.to_thread.run_sync(_has_something, self.home):
            await self._run_without_home(command, params, reporter)
            return
        give_up_at = trio.current_time() + HANDOVER_S
        while True:
            stream = await connect_control(self.home)
            if stream and await self._run_there(stream, command, params, reporter, make_input):
                return
            try:
                async with open_session(self.home, self.bind, self.limits) as session:
                    for text in session.wrong_settings:
                        await reporter.note(text)
                    call = Call(session=session, params=params, reporter=reporter, input=make_input())
                    await self._run_here(command, call)
                    return
            except StoreLocked:
                if trio.current_time() >= give_up_at:
                    raise
            await trio.sleep(_HANDOVER_POLL_S)

    async def _run_without_home(self, command: Command, params: Params, reporter: Reporter) -> None:
        if command.run_without_home is None:
            pool = params.get("pool", "")
            raise UnknownPool(
                f"there is no pool {pool!r}: {self.home} is no home of a device yet; poolnet join INVITE makes it one"
            )
        await command.run_without_home(self.home, params, reporter)

    async def _run_there(
        self,
        stream: trio.SocketStream,
        command: Command,
        params: Params,
        reporter: Reporter,
        make_input: MakeInput,
    ) -> bool:
        async with stream:
            if self.limits.said:
                await reporter.note(_NOT_HERE)
            given = make_input() if command.takes_input else None
            return await run_remotely(stream, command.name, params, reporter, given)

    async def _run_here(self, command: Command, call: Call) -> None:
        if not command.holds_home:
            await command.run(call)
            return
        execute = partial(self.execute, call.session)
        async with open_control_server(self.home, execute) as control:
            await command.run(call)
            if control.clients:
                text = "other commands still work through this process; waiting for them"
                async with told_if_slow(call.reporter, text):
                    with trio.move_on_after(command.linger_s):
                        await control.wait_idle()

    async def execute(
        self, session: Session, name: str, params: dict[str, Any], reporter: Reporter, given: Input
    ) -> None:
        """Run a command that came through the control socket."""
        command = self.commands.get(name)
        if command is None:
            raise LocalError(f"the running poolnet does not know the command {name}; it may be an older version")
        await command.run(Call(session=session, params=params, reporter=reporter, input=given))


def _has_something(home: Path) -> bool:
    """Return whether there is a home, or something else that is to be looked at when it is opened."""
    try:
        return bool(os.listdir(home))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # opening it says what is wrong


async def until_signalled(
    work: Callable[[], Awaitable[None]], *, stays: Callable[[], bool], second_ends: bool = True
) -> int:
    """Run `work` until it is done or a signal comes; return the exit code.

    Args:
        stays: whether the work has no end of its own when the signal comes: ending it by SIGTERM is its success.
        second_ends: a second signal ends the process without cleaning up.
    """
    received: list[int] = []
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        await nursery.start(_watch_signals, received, scope, second_ends)
        with scope:
            await work()
        nursery.cancel_scope.cancel()
    if not scope.cancelled_caught:
        return DONE
    return DONE if stays() and received[0] != signal.SIGINT else INTERRUPTED


async def _watch_signals(
    received: list[int],
    scope: trio.CancelScope,
    second_ends: bool,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if received and second_ends:
                os._exit(INTERRUPTED)
            received.append(number)
            scope.cancel()
