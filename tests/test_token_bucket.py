"""Token buckets and throttles: bursts, refills, rates that change, keys that are forgotten when they know nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.limits import CHUNK_SIZE, MIB
from poolnet.protocol.token_bucket import RateLimit, Throttle, TokenBucket


def test_a_burst_is_allowed_and_then_the_rate():
    bucket = TokenBucket(burst=3, rate=0.5, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(1.9)
    assert bucket.take(2.0)
    assert not bucket.take(2.0)


def test_rest_fills_a_bucket_but_not_above_its_burst():
    bucket = TokenBucket(burst=2, rate=1, now=0.0)
    assert bucket.is_full(1000.0)
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]


def test_keys_do_not_share():
    limit = RateLimit(burst=1, rate=1)
    assert limit.take("a", 0.0)
    assert limit.take("b", 0.0)
    assert not limit.take("a", 0.0)
    assert limit.refused == 1


@pytest.mark.parametrize("count", [20_000])
def test_rested_keys_are_forgotten(count):
    limit = RateLimit(burst=1, rate=1)
    for number in range(count):
        limit.take(number, float(number))
    assert len(limit) < count / 2
    assert not limit.take(count - 1, float(count - 1))


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 5), st.floats(0.1, 3))
def test_never_more_than_burst_and_rate_allow(pauses, burst, rate):
    bucket = TokenBucket(burst=burst, rate=rate, now=0.0)
    now, taken = 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
        assert taken <= burst + now * rate + 1e-6


def send_all(throttle: Throttle, sizes: list[int], now: float) -> list[float]:
    """Send so many bytes one after another; return when each went."""
    times = []
    for size in sizes:
        while delay := throttle.delay_s(size, now):
            assert delay <= 1.0
            now += delay
        times.append(now)
    return times


@pytest.mark.parametrize("rate", [None, 0])
def test_without_a_rate_nothing_waits(rate):
    throttle = Throttle(rate, now=5.0)
    assert throttle.rate_bytes_per_s is None
    assert send_all(throttle, [100 * MIB] * 3, 5.0) == [5.0] * 3


def test_a_throttle_lets_a_burst_through_and_then_keeps_to_its_rate():
    throttle = Throttle(CHUNK_SIZE, now=0.0)
    assert send_all(throttle, [CHUNK_SIZE] * 4, 0.0) == pytest.approx([0.0, 1.0, 2.0, 3.0])


def test_asking_in_vain_takes_nothing():
    throttle = Throttle(CHUNK_SIZE, now=0.0)
    throttle.delay_s(CHUNK_SIZE, 0.0)
    assert [throttle.delay_s(CHUNK_SIZE, 0.5) for _ in range(3)] == [0.5] * 3
    assert throttle.delay_s(CHUNK_SIZE, 1.0) == 0.0


def test_a_long_wait_is_told_a_second_at_a_time_so_that_a_new_rate_is_noticed():
    throttle = Throttle(1024, now=0.0)
    throttle.delay_s(CHUNK_SIZE, 0.0)
    assert throttle.delay_s(CHUNK_SIZE, 0.0) == 1.0
    throttle.set_rate(CHUNK_SIZE, 0.5)
    assert 0.9 < throttle.delay_s(CHUNK_SIZE, 0.5) < 1.0
    throttle.set_rate(None, 0.5)
    assert throttle.delay_s(CHUNK_SIZE, 0.5) == 0.0
    throttle.set_rate(CHUNK_SIZE, 0.5)
    assert throttle.rate_bytes_per_s == CHUNK_SIZE
    assert throttle.delay_s(CHUNK_SIZE, 0.5) == 0.0
    assert throttle.delay_s(1, 0.5) > 0.0


def test_time_that_goes_backwards_gives_nothing():
    throttle = Throttle(CHUNK_SIZE, now=10.0)
    throttle.delay_s(CHUNK_SIZE, 10.0)
    assert throttle.delay_s(CHUNK_SIZE, 2.0) == 1.0
    assert throttle.delay_s(CHUNK_SIZE, 10.5) == 0.5


@given(st.lists(st.integers(1, 3 * CHUNK_SIZE), min_size=1, max_size=40), st.integers(1000, 50 * MIB))
def test_a_throttle_keeps_to_its_rate_in_the_long_run_and_wastes_none_of_it(sizes, rate):
    burst = max(rate * 0.1, CHUNK_SIZE)
    sent, before = 0, 0.0
    for size, at in zip(sizes, send_all(Throttle(rate, now=0.0), sizes, 0.0), strict=True):
        unused = burst + at * rate - sent - min(size, burst)
        assert unused >= -1.0
        assert at == before or unused <= 1.0, "it waited longer than it had to"
        sent, before = sent + size, at
