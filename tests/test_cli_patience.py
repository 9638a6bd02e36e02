"""Waiting for others: in time, told what for, and how a command that is interrupted ends."""

import json
import os
import signal

import pytest
import trio
from cli_fakes import GARDEN, SERVER, Recorder, open_desk
from trio.testing import MockClock

from poolnet import AddressInUse, Refused, Unreachable
from poolnet_cli.commands import talk
from poolnet_cli.launch import run_until_signalled
from poolnet_cli.outcome import DONE, INTERRUPTED
from poolnet_cli.patience import told_if_slow, until_reached
from poolnet_cli.terminal import JsonReporter


class Server:
    """Answers from a moment on; until then each attempt takes a while and fails."""

    def __init__(self, *, from_s: float, attempt_s: float = 12.0) -> None:
        self._answers_at = trio.current_time() + from_s
        self._attempt_s = attempt_s
        self.attempts = 0

    async def ask(self) -> str:
        self.attempts += 1
        if trio.current_time() < self._answers_at:
            await trio.sleep(self._attempt_s)
            raise Unreachable("no answer")
        return "yes"


async def test_a_server_is_asked_again_until_it_answers(jumping_clock: MockClock):
    server = Server(from_s=20)
    assert await until_reached(server.ask, 60, [SERVER], Recorder()) == "yes"
    assert server.attempts == 3


async def test_the_time_allowed_is_for_all_attempts_together(jumping_clock: MockClock):
    server = Server(from_s=1000)
    with pytest.raises(Unreachable, match="no answer"):
        await until_reached(server.ask, 15, [SERVER], Recorder())
    assert trio.current_time() == pytest.approx(15)
    assert server.attempts == 2


async def test_a_first_attempt_that_takes_too_long_is_given_up_and_says_where_nobody_answered(jumping_clock: MockClock):
    with pytest.raises(Unreachable, match=r"192\.0\.2\.7:7665 within 0\.5 s"):
        await until_reached(Server(from_s=1000).ask, 0.5, [SERVER], Recorder())
    assert trio.current_time() == pytest.approx(0.5)


async def test_a_refusal_is_final(jumping_clock: MockClock):
    async def refuse() -> None:
        await trio.lowlevel.checkpoint()
        raise Refused("the invite has expired", code="invite_expired")

    with pytest.raises(Refused):
        await until_reached(refuse, 15, [SERVER], Recorder())


async def test_only_what_is_slow_is_explained(jumping_clock: MockClock):
    recorder = Recorder()
    for seconds in (1, 10):
        async with told_if_slow(recorder, f"waiting {seconds} s"):
            await trio.sleep(seconds)
    assert recorder.notes == ["waiting 10 s"]


async def test_send_says_what_it_waits_for(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        with pytest.raises(Unreachable):
            await talk.send(desk.call(recorder, text="hi", timeout_s=30))
    assert recorder.notes == ["waiting until another member is there"]


async def test_a_taken_port_of_a_pools_own_server_is_told_as_that(jumping_clock: MockClock):
    async with open_desk() as desk:
        desk.node.error = AddressInUse("another program uses UDP port 7665")
        with pytest.raises(AddressInUse, match="this device runs that pool's sync server on UDP port 7665"):
            async with desk.session.use_pool(GARDEN):
                pass


@pytest.mark.parametrize(
    ("stays", "number", "code"), [(False, signal.SIGINT, INTERRUPTED), (True, signal.SIGTERM, DONE)]
)
def test_only_work_that_has_an_end_of_its_own_is_interrupted(
    capfd: pytest.CaptureFixture[str], stays: bool, number: signal.Signals, code: int
):
    async def work() -> None:
        os.kill(os.getpid(), number)
        await trio.sleep_forever()

    assert run_until_signalled(work, JsonReporter(), stays=stays, interrupted="interrupted; go on") == code
    out, err = capfd.readouterr()
    if stays:
        assert (out, err) == ("", "")
    else:
        assert json.loads(out) == {"event": "error", "code": "interrupted", "message": "interrupted; go on"}
        assert err == "poolnet: interrupted; go on\n"
