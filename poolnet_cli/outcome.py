"""How a command ends: its exit code, and one clear sentence if it did not work.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nobody reachable or timed out, 130 interrupted.
"""

import errno
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import attrs
import trio

from poolnet import InvalidAddress, PoolnetError, Unreachable, printable

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130


class CommandFailed(Exception):
    """A command that ended elsewhere with that outcome (in the process that holds the home, or a child)."""

    def __init__(self, outcome: "Outcome") -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


@attrs.frozen(kw_only=True)
class Outcome:
    """The end of a command. `code` is a stable word for programs, `message` a sentence for people; both empty if done.

    Args:
        is_bug: something that should not happen; the traceback is worth showing.
    """

    exit_code: int
    code: str = ""
    message: str = ""
    is_bug: bool = False


def outcome_of(error: BaseException) -> Outcome:
    """Return how a command that raised `error` ends.

    A group counts as its most telling member: a bug before an expected failure, anything before an interruption.
    """
    outcomes = [_outcome_of_one(leaf) for leaf in _leaves(error)]
    return min(outcomes, key=_rank, default=Outcome(exit_code=INTERRUPTED, code="interrupted", message="interrupted"))


async def failure_of(action: Callable[[], Awaitable[object]]) -> Outcome | None:
    """Run `action`; return why it failed if that was to be expected, None if it is done. Bugs are raised."""
    try:
        await action()
    except (PoolnetError, OSError) as exc:
        return outcome_of(exc)
    except BaseExceptionGroup as group:
        unexpected = group.split((PoolnetError, OSError))[1]
        if unexpected is not None:
            raise unexpected from None
        return outcome_of(group)
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    elif not isinstance(error, trio.Cancelled):
        yield error


def _rank(outcome: Outcome) -> int:
    if outcome.is_bug:
        return 0
    return 2 if outcome.exit_code == INTERRUPTED else 1


def _outcome_of_one(error: BaseException) -> Outcome:
    match error:
        case CommandFailed():
            return error.outcome
        case InvalidAddress():  # typed, whatever found out
            return Outcome(exit_code=USAGE, code=error.code, message=_sentence(error))
        case Unreachable():
            return Outcome(exit_code=UNREACHABLE, code=error.code, message=_sentence(error))
        case PoolnetError():
            return Outcome(exit_code=FAILED, code=error.code, message=_sentence(error))
        case KeyboardInterrupt():
            return Outcome(exit_code=INTERRUPTED, code="interrupted", message="interrupted")
        case OSError():
            return Outcome(exit_code=FAILED, code=_errno_word(error), message=_os_sentence(error))
        case _:
            message = f"a bug in poolnet: {type(error).__name__}: {error} (--verbose shows where; please report it)"
            return Outcome(exit_code=FAILED, code="internal", message=printable(message), is_bug=True)


def _sentence(error: PoolnetError) -> str:
    return printable(str(error)) or error.code.replace("_", " ")


def _os_sentence(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return printable(reason)
    name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else str(error.filename)
    return printable(f"{name}: {reason}")


def _errno_word(error: OSError) -> str:
    words = {
        errno.ENOENT: "not_found",
        errno.EACCES: "no_permission",
        errno.EPERM: "no_permission",
        errno.ENOSPC: "disk_full",
        errno.EADDRINUSE: "address_in_use",
        errno.EPIPE: "output_closed",
    }
    return words.get(error.errno or 0, "os_error")
