"""The UDP socket over real loopback, and its stand-in in memory."""

import errno
import socket
import sys

import pytest
import trio

from poolnet.errors import AddressInUse, InvalidAddress, Unreachable
from poolnet.limits import MAX_DATAGRAMS_PER_TURN
from poolnet.net.addresses import from_kernel, host_addresses, is_loopback, is_numeric, resolve, to_kernel
from poolnet.net.udp import Datagram, UdpSocket, open_udp_socket
from poolnet.testing.memory_udp import MemoryNetwork

LOOPBACK = ("127.0.0.1", 0)


async def receive(sock: UdpSocket, count: int) -> list[Datagram]:
    """Receive `count` datagrams, within real seconds."""
    received: list[Datagram] = []
    with trio.fail_after(5):
        while len(received) < count:
            await sock.wait_readable()
            received += sock.receive_batch()
    return received


@pytest.fixture
def pair() -> tuple[UdpSocket, UdpSocket]:
    return open_udp_socket(LOOPBACK), open_udp_socket(LOOPBACK)


async def test_datagrams_keep_their_bounds_order_and_source(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    sizes = [1200] * 70 + [300] + [1452] * 3 + [16370] * 9 + [1, 1200, 1200]
    sent = [bytes([index]) * size for index, size in enumerate(sizes)]
    assert one.send_batch([(data, other.address) for data in sent]) == len(sent)
    assert await receive(other, len(sent)) == [(data, one.address) for data in sent]
    one.close()
    other.close()


async def test_runs_need_far_fewer_calls_than_datagrams(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    one.send_batch([(bytes(1200), other.address)] * 128)
    assert len(await receive(other, 128)) == 128
    assert one.statistics().datagrams_out == 128
    if sys.platform == "linux" and one._can_segment:
        assert one.statistics().send_calls < 8
    one.close()
    other.close()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.EMSGSIZE])
async def test_a_kernel_that_refuses_runs_gets_single_datagrams(pair: tuple[UdpSocket, UdpSocket], number: int) -> None:
    one, other = pair
    real = one._sock

    class Refusing:
        def sendmsg(self, *_arguments: object) -> int:
            raise OSError(number, "no")

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    one._sock = Refusing()  # type: ignore[assignment]
    sent = [(bytes([index]) * 500, other.address) for index in range(20)]
    assert one.send_batch(sent) == 20
    assert [data for data, _ in await receive(other, 20)] == [data for data, _ in sent]
    one._sock = real
    one.close()
    other.close()


async def test_what_cannot_be_sent_is_dropped_and_counted_and_the_rest_goes_on(
    pair: tuple[UdpSocket, UdpSocket],
) -> None:
    one, other = pair
    batch = [
        (bytes(65600), other.address),  # larger than any datagram
        (b"x", ("::1", 9)),  # another family
        (b"x", ("not an address", 9)),
        (b"last", other.address),
    ]
    assert one.send_batch(batch) == 4
    assert (await receive(other, 1))[0][0] == b"last"
    assert (one.statistics().too_large, one.statistics().refused) == (1, 2)
    one.close()
    other.close()


async def test_a_port_that_nobody_listens_on_does_no_harm(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    gone = open_udp_socket(LOOPBACK)
    address = gone.address
    gone.close()
    for _ in range(5):
        assert one.send_batch([(b"x", address), (b"y", other.address)]) == 2
    assert len(await receive(other, 5)) == 5
    assert one.receive_batch() == []
    one.close()
    other.close()


async def test_a_turn_is_bounded(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    for _ in range(8):
        one.send_batch([(bytes(100), other.address)] * 50)
    await other.wait_readable()
    assert MAX_DATAGRAMS_PER_TURN <= len(other.receive_batch()) < 2 * MAX_DATAGRAMS_PER_TURN
    one.close()
    other.close()


async def test_empty_datagrams_are_dropped_within_the_bounds_of_a_turn(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(MAX_DATAGRAMS_PER_TURN):
        plain.sendto(b"", other.address)
    one.send_batch([(b"after them", other.address)])
    await other.wait_readable()
    assert other.receive_batch() == [], "a flood of empty ones does not keep the others of this device waiting"
    assert await receive(other, 1) == [(b"after them", one.address)]
    plain.close()
    one.close()
    other.close()


async def test_closing_wakes_who_waits(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    other.close()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await one.wait_readable()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        one.close()
        one.close()


async def test_a_dual_stack_socket_speaks_both_families_in_plain_form() -> None:
    both = open_udp_socket(("::", 0))
    four = open_udp_socket(LOOPBACK)
    four.send_batch([(b"four", ("127.0.0.1", both.address[1]))])
    (data, source) = (await receive(both, 1))[0]
    assert (data, source) == (b"four", four.address)
    both.send_batch([(b"back", source)])
    assert (await receive(four, 1))[0][0] == b"back"
    four.close()
    both.close()


def test_without_ipv6_the_wildcard_means_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def no_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", no_ipv6)
    sock = open_udp_socket(("::", 0))
    assert sock.address[0] == "0.0.0.0"
    sock._sock.close()


async def test_a_port_in_use_is_told(pair: tuple[UdpSocket, UdpSocket]) -> None:
    with pytest.raises(AddressInUse, match="another program"):
        open_udp_socket(pair[0].address)
    for sock in pair:
        sock.close()


@pytest.mark.parametrize("host", ["203.0.113.77", "example", ""])
def test_an_address_of_another_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidAddress):
        open_udp_socket((host, 0))


@pytest.mark.parametrize(
    ("kernel", "plain"),
    [
        (("::ffff:192.0.2.1", 5, 0, 0), ("192.0.2.1", 5)),
        (("2001:db8::1", 5, 0, 0), ("2001:db8::1", 5)),
        (("fe80::1", 5, 0, 3), ("fe80::1%3", 5)),
    ],
)
def test_addresses_keep_their_meaning_both_ways(kernel: tuple[object, ...], plain: tuple[str, int]) -> None:
    assert from_kernel(kernel) == plain
    assert to_kernel(socket.AF_INET6, plain) == kernel


def test_only_addresses_count_as_numeric() -> None:
    assert [is_numeric(host) for host in ("127.0.0.1", "::1", "fe80::1%2", "localhost", "")] == [
        True,
        True,
        True,
        False,
        False,
    ]


async def test_names_are_looked_up_and_addresses_are_not() -> None:
    assert await resolve(("192.0.2.1", 7)) == [("192.0.2.1", 7)]
    assert ("127.0.0.1", 7) in await resolve(("localhost", 7))
    with pytest.raises(Unreachable):
        await resolve(("no such name", 7))


def test_a_socket_bound_to_one_address_has_that_candidate() -> None:
    assert host_addresses(("127.0.0.1", 5)) == (("127.0.0.1", 5),)
    everywhere = host_addresses(("::", 5))
    assert everywhere
    assert all(port == 5 and is_numeric(host) for host, port in everywhere)


async def test_the_network_in_memory_delays_loses_and_doubles(autojump_clock: trio.abc.Clock) -> None:
    network = MemoryNetwork(1, latency_s=0.5, loss=0.3, duplicate=0.2, mtu_size=1000)
    one, other = network.open_socket(("10.0.0.1", 0)), network.open_socket(("10.0.0.2", 0))
    one.send_batch([(bytes([number]), other.address) for number in range(200)])
    one.send_batch([(bytes(1001), other.address)])
    assert other.receive_batch() == []
    started = trio.current_time()
    await other.wait_readable()
    assert trio.current_time() - started == pytest.approx(0.5)
    received = []
    while batch := other.receive_batch():
        received += [data[0] for data, source in batch if source == one.address]
    assert 120 < len(set(received)) < 160
    assert len(received) > len(set(received))


async def test_a_silent_address_neither_sends_nor_receives(autojump_clock: trio.abc.Clock) -> None:
    network = MemoryNetwork(1)
    one, other = network.open_socket(("::", 0)), network.open_socket(("::", 0))
    network.silence(one.address)
    one.send_batch([(b"a", other.address)])
    other.send_batch([(b"b", one.address)])
    await trio.sleep(1)
    assert (one.receive_batch(), other.receive_batch()) == ([], [])
    network.unsilence(one.address)
    one.send_batch([(b"c", other.address)])
    await other.wait_readable()
    assert other.receive_batch() == [(b"c", one.address)]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::1%1"]
)
def test_whatever_a_connection_to_it_reaches_here_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "fe80::1%2"])
def test_an_address_of_another_machine_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
