"""Which networks are known: by links that lasted, for a while, and only so many."""

from hypothesis import given
from hypothesis import strategies as st

from poolnet.limits import ATTACH_TIMEOUT_S, KNOWN_AFTER_S, KNOWN_FOR_S, MAX_KNOWN_NETWORKS, PRE_AUTH_TIMEOUT_S
from poolnet.protocol.known_networks import KnownNetworks

DAY_S = 24 * 3600.0


def test_a_sync_server_has_closed_the_link_of_who_does_not_belong_there_long_before_it_is_known() -> None:
    assert KNOWN_AFTER_S > 2 * (ATTACH_TIMEOUT_S + PRE_AUTH_TIMEOUT_S)


def test_many_short_links_one_after_the_other_are_none_that_lasted() -> None:
    networks: KnownNetworks[int] = KnownNetworks()
    now = 0.0
    for number in range(100):
        networks.link_up(number, "a", now)
        now += KNOWN_AFTER_S - 1
        networks.link_down(number, now)
        assert not networks.is_known("a", now)
    assert len(networks) == 0


def test_a_network_is_known_by_the_oldest_of_its_links() -> None:
    networks: KnownNetworks[int] = KnownNetworks()
    networks.link_up(1, "a", 0.0)
    networks.link_up(2, "a", 50.0)
    networks.link_up(3, "b", 50.0)
    assert networks.is_known("a", KNOWN_AFTER_S)
    assert not networks.is_known("b", KNOWN_AFTER_S)
    networks.link_down(2, KNOWN_AFTER_S)
    networks.link_down(2, KNOWN_AFTER_S)
    assert networks.is_known("a", 30 * DAY_S)
    assert networks.is_known("b", 30 * DAY_S)


def test_of_the_networks_that_were_linked_the_latest_are_remembered() -> None:
    networks: KnownNetworks[int] = KnownNetworks()
    for number in range(MAX_KNOWN_NETWORKS + 1):
        networks.link_up(number, str(number), 0.0)
    networks.link_up(-1, "0", 0.0)
    for number in range(MAX_KNOWN_NETWORKS):
        networks.link_down(number, KNOWN_AFTER_S)
    networks.link_down(-1, KNOWN_AFTER_S)  # the first once more: now the latest
    networks.link_down(MAX_KNOWN_NETWORKS, KNOWN_AFTER_S)
    assert len(networks) == MAX_KNOWN_NETWORKS
    known = [number for number in range(MAX_KNOWN_NETWORKS + 1) if networks.is_known(str(number), KNOWN_AFTER_S)]
    assert known == [0, *range(2, MAX_KNOWN_NETWORKS + 1)]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 200), st.floats(0, 200)), max_size=20), st.floats(0, 500)
)
def test_known_is_who_had_a_link_for_long_enough(links: list[tuple[str, float, float]], end: float) -> None:
    networks: KnownNetworks[int] = KnownNetworks()
    moments = [(up, 0, number) for number, (_, up, _) in enumerate(links)]
    moments += [(up + lasted, 1, number) for number, (_, up, lasted) in enumerate(links)]
    for now, is_down, number in sorted(moments):
        if now <= end:
            if is_down:
                networks.link_down(number, now)
            else:
                networks.link_up(number, links[number][0], now)
    expected = {network for network, up, lasted in links if up <= end and min(end, up + lasted) - up >= KNOWN_AFTER_S}
    assert {network for network in "abc" if networks.is_known(network, end)} == expected
    for number in range(len(links)):
        networks.link_down(number, end)
    assert not any(networks.is_known(network, end + KNOWN_FOR_S) for network in "abc")
