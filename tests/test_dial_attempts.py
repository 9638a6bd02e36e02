"""The attempts to reach one peer: waits that double, and when it counts as gone."""

from random import Random

import pytest

from poolnet.limits import GONE_AFTER_DIALS, MAX_BACKOFF_S, MIN_BACKOFF_S
from poolnet.protocol.dial_attempts import DialAttempts


class Longest(Random):
    """Draws the largest number always."""

    def random(self) -> float:
        return 1.0


class Shortest(Random):
    """Draws the smallest number always."""

    def random(self) -> float:
        return 0.0


@pytest.mark.parametrize(("rng", "share"), [(Longest(), 1.0), (Shortest(), 0.5)], ids=["longest", "shortest"])
def test_the_waits_after_failed_dials_double_up_to_the_largest(rng: Random, share: float) -> None:
    tries, waits = DialAttempts(0.0), []
    for _ in range(10):
        tries.failed(100.0, rng)
        waits.append(tries.dial_at - 100.0)
    assert waits == [share * min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2**number) for number in range(10)]


def test_links_that_end_at_once_are_waited_for_likewise_and_one_that_was_stable_is_dialled_at_once() -> None:
    tries, waits = DialAttempts(0.0), []
    for lasted_s in (4.9, 0.0, 1.0, 5.0, 4.9):
        tries.linked()
        tries.ended(lasted_s, 100.0, not_before=100.0, rng=Longest())
        waits.append(tries.dial_at - 100.0)
    assert waits == [MIN_BACKOFF_S, 2 * MIN_BACKOFF_S, 4 * MIN_BACKOFF_S, 0.0, MIN_BACKOFF_S]
    tries.ended(60.0, 200.0, not_before=203.0, rng=Longest())
    assert tries.dial_at == 203.0


def test_a_link_ends_the_row_of_failed_dials_but_not_the_waits() -> None:
    tries = DialAttempts(0.0)
    assert [tries.failed(0.0, Longest()) for _ in range(GONE_AFTER_DIALS + 1)] == [
        *[False] * (GONE_AFTER_DIALS - 1),
        True,
        False,
    ]
    assert tries.is_gone
    tries.is_dialling = True
    tries.linked()
    assert not tries.is_gone
    assert not tries.is_dialling
    tries.ended(0.0, 100.0, not_before=100.0, rng=Longest())
    assert tries.dial_at == 100.0 + MIN_BACKOFF_S * 2 ** (GONE_AFTER_DIALS + 1)
    assert [tries.failed(0.0, Longest()) for _ in range(GONE_AFTER_DIALS)][-1]
