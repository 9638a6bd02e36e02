"""What the kernel says about datagrams, by a socket that says it: lost, too large, not here, and not at all."""

import errno
import socket
import struct
from typing import Any

import pytest

from poolnet.net.udp import UdpSocket

HERE = ("127.0.0.1", 5000)


class Kernel:
    """A socket whose calls fail with these errors, one after the other; 0: it works."""

    family = socket.AF_INET

    def __init__(self, *errors: int, ancillary: tuple[tuple[int, int, bytes], ...] = ()) -> None:
        self._errors = list(errors)
        self._ancillary = list(ancillary)
        self.runs = 0

    def setsockopt(self, *_arguments: Any) -> None:
        pass

    def sendto(self, data: bytes, _target: Any) -> int:
        self._fail()
        return len(data)

    def sendmsg(self, run: list[bytes], *_arguments: Any) -> int:
        self._fail()
        self.runs += 1
        return sum(map(len, run))

    def recvmsg(self, *_sizes: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        self._fail()
        return b"abcde", self._ancillary, 0, HERE

    def _fail(self) -> None:
        number = self._errors.pop(0) if self._errors else errno.EAGAIN
        if number == errno.EAGAIN:
            raise BlockingIOError
        if number:
            raise OSError(number, "no")


def open_socket(*errors: int, ancillary: tuple[tuple[int, int, bytes], ...] = ()) -> UdpSocket:
    kernel: Any = Kernel(*errors, ancillary=ancillary)
    return UdpSocket(kernel)


def test_an_answer_to_something_sent_earlier_is_counted_and_the_rest_received() -> None:
    sock = open_socket(errno.ECONNREFUSED, 0, errno.EAGAIN)
    assert sock.receive_batch() == [(b"abcde", HERE)]
    assert (sock.statistics().refused, sock.statistics().datagrams_in, sock.statistics().bytes_in) == (1, 1, 5)


def test_datagrams_that_the_kernel_merged_come_apart() -> None:
    segment = (socket.IPPROTO_UDP, 104, struct.pack("=i", 2))
    other = (socket.IPPROTO_IP, 1, bytes(4))
    sock = open_socket(0, ancillary=(other, segment))
    assert [data for data, _ in sock.receive_batch()] == [b"ab", b"cd", b"e"]


def test_what_is_no_answer_of_the_network_is_raised() -> None:
    with pytest.raises(OSError, match="no"):
        open_socket(errno.EBADF).receive_batch()
    for count in (1, 2):
        sock = open_socket(errno.EBADF)
        sock._can_segment = True
        with pytest.raises(OSError, match="no"):
            sock.send_batch([(b"x", HERE)] * count)


def test_what_is_too_large_or_cannot_go_there_is_dropped_and_the_rest_sent() -> None:
    sock = open_socket(errno.EMSGSIZE, errno.EHOSTUNREACH, 0)
    sock._can_segment = False
    assert sock.send_batch([(b"x", HERE)] * 4) == 3
    assert (sock.statistics().too_large, sock.statistics().refused, sock.statistics().datagrams_out) == (1, 1, 1)


def test_a_run_that_cannot_go_there_is_dropped_as_a_whole() -> None:
    sock = open_socket(errno.EHOSTUNREACH, 0)
    sock._can_segment = True
    assert sock.send_batch([(b"x", HERE)] * 3) == 3
    assert (sock.statistics().refused, sock.statistics().datagrams_out) == (3, 0)


def test_a_full_kernel_ends_the_batch() -> None:
    for can_segment in (False, True):
        sock = open_socket()
        sock._can_segment = can_segment
        assert sock.send_batch([(b"x", HERE)] * 3) == 0
