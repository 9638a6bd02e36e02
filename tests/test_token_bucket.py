"""Token buckets: bursts, refills, and keys that are forgotten when they know nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.protocol.token_bucket import RateLimit, TokenBucket


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
