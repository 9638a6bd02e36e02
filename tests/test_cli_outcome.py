"""How errors become exit codes and one sentence."""

import errno

import pytest
import trio

from poolnet import InvalidInvite, Refused, StoreLocked, UnknownPool, Unreachable
from poolnet_cli.outcome import CommandFailed, Outcome, failure_of, outcome_of


def read_missing() -> None:
    with open("/nonexistent/file", "rb"):
        pass


def os_error() -> OSError:
    try:
        read_missing()
    except OSError as exc:
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (UnknownPool("there is none"), 1, "unknown_pool"),
        (InvalidInvite("cut off"), 1, "invalid_invite"),
        (Refused("no", code="invite_expired"), 1, "invite_expired"),
        (StoreLocked("in use"), 1, "home_in_use"),
        (Unreachable("nobody"), 3, "unreachable"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "disk_full"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "output_closed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (CommandFailed(Outcome(exit_code=3, code="far", message="away")), 3, "far"),
        (ZeroDivisionError("oops"), 1, "internal"),
    ],
)
def test_every_error_has_an_exit_code_and_a_word(error: BaseException, exit_code: int, code: str):
    outcome = outcome_of(error)
    assert (outcome.exit_code, outcome.code) == (exit_code, code)
    assert outcome.message
    assert "\n" not in outcome.message


def test_an_os_error_names_the_file_and_the_reason():
    assert outcome_of(os_error()).message == "/nonexistent/file: No such file or directory"


def test_what_a_server_said_cannot_act_on_the_terminal():
    assert outcome_of(Refused("go \x1b[2J\naway")).message == "go \\x1b[2J\\naway"


def test_only_a_bug_is_called_one():
    assert outcome_of(ZeroDivisionError("oops")).is_bug
    assert not outcome_of(UnknownPool("none")).is_bug


def test_a_group_counts_as_its_most_telling_member():
    group = BaseExceptionGroup("all", [KeyboardInterrupt(), ExceptionGroup("inner", [Unreachable("nobody")])])
    assert outcome_of(group).exit_code == 3
    assert outcome_of(BaseExceptionGroup("all", [group, ZeroDivisionError("x")])).is_bug


async def test_an_expected_failure_is_returned_also_out_of_a_nursery():
    async def fail_in_nursery() -> None:
        async with trio.open_nursery():
            raise UnknownPool("none")

    failure = await failure_of(fail_in_nursery)
    assert failure is not None
    assert failure.code == "unknown_pool"
    assert await failure_of(trio.lowlevel.checkpoint) is None


async def test_a_bug_is_not_taken_for_an_expected_failure():
    async def fail() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        await failure_of(fail)
