"""Places for strangers: bounded, shared by networks, and taken away only from those who had their time."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.limits import (
    HALF_OPEN_GRACE_S,
    MAX_HALF_OPEN,
    MAX_HALF_OPEN_PER_NETWORK,
    RETRY_ABOVE_HALF_OPEN,
)
from poolnet.protocol.fair_slots import FairSlots, network_of

SLOTS, SHARE, GRACE_S = 6, 3, 10.0


def slots() -> FairSlots[int]:
    return FairSlots(slots=SLOTS, per_network=SHARE, grace_s=GRACE_S)


def filled(networks: str, *, now: float = 0.0) -> FairSlots[int]:
    """Newcomers 0, 1, 2 … of these networks, a tenth of a second apart."""
    made = slots()
    for number, network in enumerate(networks):
        assert made.take(number, network, now + number / 10) is None
    return made


def test_while_there_are_places_nobody_has_to_go() -> None:
    made = filled("aaabb")
    assert made.has_room("c", 0.0)
    assert made.take(9, "c", 0.0) is None
    assert made.holders() == [0, 1, 2, 3, 4, 9]


def test_a_network_with_its_share_gets_no_more_before_its_oldest_had_its_time() -> None:
    made = filled("aaa")
    assert not made.has_room("a", GRACE_S - 0.1)
    assert made.has_room("b", 0.3)
    assert made.take(9, "a", GRACE_S) == 0
    assert made.holders() == [1, 2, 9]


def test_when_all_places_are_taken_the_oldest_of_the_largest_network_goes() -> None:
    made = filled("baaacd")
    assert not made.has_room("e", GRACE_S)
    assert made.has_room("e", GRACE_S + 0.1)
    assert made.take(9, "e", GRACE_S + 0.1) == 1, "the oldest of a, though that of b is older"


def test_of_networks_that_hold_the_same_that_with_the_oldest_gives_way() -> None:
    made = filled("abcdef")
    assert made.take(9, "g", GRACE_S) == 0


def test_a_place_that_was_given_back_is_free() -> None:
    made = filled("abcdef")
    made.release(2)
    made.release(2)
    assert made.take(9, "g", 0.0) is None
    assert 2 not in made


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.sampled_from("abcd"), st.floats(0, 8)),
            st.tuples(st.just("release"), st.integers(0, 40), st.floats(0, 8)),
        ),
        max_size=60,
    )
)
def test_whatever_happens_nobody_has_more_than_its_share_and_nobody_goes_early(steps: list) -> None:
    made, model, now = slots(), dict[int, tuple[str, float]](), 0.0
    for number, (what, argument, later_s) in enumerate(steps):
        now += later_s
        if what == "release":
            made.release(argument)
            model.pop(argument, None)
        elif made.has_room(argument, now):
            sent_away = made.take(number, argument, now)
            if sent_away is not None:
                assert len(model) == SLOTS or sum(network == argument for network, _ in model.values()) == SHARE
                assert now - model.pop(sent_away)[1] >= GRACE_S
            model[number] = (argument, now)
        assert set(made.holders()) == set(model)
        assert len(made) == len(model) <= SLOTS
        assert all(sum(network == name for network, _ in model.values()) <= SHARE for name in "abcd")


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1%eth0", "2001:db8::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_a_network_is_an_ipv4_address_or_half_an_ipv6_address(host: str, network: str) -> None:
    assert network_of(host) == network
    assert host == "somewhere" or ip_network(network)


def test_forged_senders_cannot_use_up_the_share_of_somebody_else() -> None:
    """Before they must return a token they can fill fewer places than one network may have."""
    assert RETRY_ABOVE_HALF_OPEN < MAX_HALF_OPEN_PER_NETWORK < MAX_HALF_OPEN
    assert HALF_OPEN_GRACE_S > 0
