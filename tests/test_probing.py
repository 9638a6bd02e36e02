"""Path probes as a machine, over simulated paths with an MTU, a NAT, loss and liars."""

import heapq
import random
from itertools import count

import attrs
import pytest
from link_world import near

from poolnet.limits import MAX_CANDIDATES, MAX_PROBE_SESSIONS, PROBE_LINGER_S, PROBE_SIZES
from poolnet.protocol.probing import (
    ANSWER,
    HEADER_SIZE,
    PROBE,
    DatagramReceived,
    Effect,
    NoPath,
    PathFound,
    Prober,
    SendDatagram,
    SocketAddress,
    StartProbing,
    StopProbing,
)

SESSION, KEY = b"session!", b"k" * 32
A, B = ("10.0.0.1", 1), ("10.0.0.2", 2)


@attrs.define(slots=False)
class Paths:
    """Two probers and what is between them, in virtual time."""

    mtu: int = 65507
    latency_s: float = 0.01
    loss: float = 0.0
    seed: int = 1
    #: what B's packets seem to come from, as a NAT that nobody told A about makes them
    mapped: SocketAddress = B
    now: float = 0.0
    found: dict[str, PathFound | NoPath] = attrs.Factory(dict)
    sizes: dict[str, list[tuple[int, int]]] = attrs.Factory(lambda: {"a": [], "b": []})

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.probers = {"a": Prober(random.Random(2)), "b": Prober(random.Random(3))}
        self.queue: list[tuple[float, int, str, bytes, SocketAddress]] = []
        self.order = count()

    def start(self, name: str, candidates: tuple[SocketAddress, ...], *, deadline: float = 3.0) -> None:
        self.perform(name, self.probers[name].handle(StartProbing(SESSION, KEY, candidates, deadline), self.now))

    def perform(self, name: str, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendDatagram):
                self.sizes[name].append((effect.data[0], len(effect.data)))
                self.send(name, effect)
            else:
                self.found[name] = effect

    def send(self, name: str, effect: SendDatagram) -> None:
        source, reachable, target = (A, {self.mapped}, "b") if name == "a" else (self.mapped, {A}, "a")
        if effect.address in reachable and len(effect.data) <= self.mtu and self.rng.random() >= self.loss:
            heapq.heappush(self.queue, (self.now + self.latency_s, next(self.order), target, effect.data, source))

    def run(self, until: float) -> None:
        while True:
            timers = [(prober.next_deadline(), name) for name, prober in self.probers.items()]
            due = [(when, name) for when, name in timers if when is not None and when <= until]
            if self.queue and self.queue[0][0] <= min([until, *(when for when, _ in due)]):
                self.now, _, name, data, source = heapq.heappop(self.queue)
                self.perform(name, self.probers[name].handle(DatagramReceived(data, source), self.now))
            elif due:
                when, name = min(due)
                self.now = max(self.now, when)
                self.perform(name, self.probers[name].tick(self.now))
            else:
                self.now = until
                return


@pytest.mark.parametrize(("mtu", "size"), [(65507, 16370), (9000, 8952), (1472, 1452), (1280, 1200)])
def test_both_sides_find_what_the_path_carries(mtu: int, size: int) -> None:
    paths = Paths(mtu=mtu)
    paths.start("a", (B,))
    paths.start("b", (A,))
    paths.run(1.0)
    assert paths.found["a"] == PathFound(SESSION, B, size, near(0.02))
    assert paths.found["b"] == PathFound(SESSION, A, size, near(0.02))
    assert paths.probers["a"].datagram_size_for(B) == size
    assert paths.probers["a"].datagram_size_for(("10.0.0.9", 1)) == 1200


def test_a_search_ends_at_once_when_every_size_was_answered() -> None:
    paths = Paths()
    paths.start("a", (B,))
    paths.start("b", (A,))
    paths.run(0.05)
    assert set(paths.found) == {"a", "b"}


def test_without_jumbo_frames_it_ends_soon_after_the_first_answer() -> None:
    paths = Paths(mtu=1472)
    paths.start("a", (B,))
    paths.start("b", (A,))
    paths.run(0.021 + 0.15)
    assert set(paths.found) == {"a", "b"}


@pytest.mark.parametrize("is_searching", [True, False], ids=["both search", "the other only answers"])
def test_a_size_that_is_not_answered_is_tried_once_more_and_not_again(*, is_searching: bool) -> None:
    paths = Paths(mtu=1472, latency_s=0.1)  # so far that a search goes on for several rounds after the first answer
    paths.start("a", (B,))
    paths.start("b", (A,) if is_searching else ())
    if not is_searching:
        paths.perform("b", paths.probers["b"].handle(StopProbing(SESSION), 0.0))
    paths.run(3.0)
    for name in ("a", "b") if is_searching else ("a",):
        assert [paths.sizes[name].count((PROBE, size)) for size in PROBE_SIZES if size > 1472] == [2, 2]


def test_a_side_that_starts_later_is_found() -> None:
    paths = Paths()
    paths.start("a", (B,))
    paths.run(0.55)
    assert not paths.found
    paths.start("b", (A,))
    paths.run(1.0)
    assert set(paths.found) == {"a", "b"}


@pytest.mark.parametrize("seed", range(5))
def test_loss_delays_but_does_not_fail_a_search(seed: int) -> None:
    paths = Paths(loss=0.4, seed=seed)
    paths.start("a", (B,))
    paths.start("b", (A,))
    paths.run(3.1)
    assert isinstance(paths.found["a"], PathFound)
    assert isinstance(paths.found["b"], PathFound)


def test_the_faster_address_wins() -> None:
    prober = Prober(random.Random(1))
    slow, fast = ("10.0.0.7", 7), ("10.0.0.8", 8)
    probes = prober.handle(StartProbing(SESSION, KEY, (slow, fast), 3.0), 0.0)
    for address, rtt in ((fast, 0.01), (slow, 0.04)):
        probe = next(effect for effect in probes if isinstance(effect, SendDatagram) and effect.address == address)
        answerer = Prober(random.Random(2))
        answerer.handle(StartProbing(SESSION, KEY, (), 3.0), 0.0)
        answer = answerer.handle(DatagramReceived(probe.data, A), 0.0)[0]
        assert isinstance(answer, SendDatagram)
        prober.handle(DatagramReceived(answer.data, address), rtt)
    assert prober.tick(1.0)[0] == PathFound(SESSION, fast, 1200, near(0.01))


def test_an_address_that_a_nat_chose_is_learned_from_the_probes() -> None:
    """A knows nothing of B; B, behind a NAT, knows A. Its probes arrive from an address nobody told A."""
    paths = Paths(mapped=("203.0.113.5", 54321))
    paths.start("a", ())
    paths.start("b", (A,))
    paths.run(1.0)
    assert paths.found["a"] == PathFound(SESSION, ("203.0.113.5", 54321), 16370, near(0.02))
    assert isinstance(paths.found["b"], PathFound)


def test_nobody_there_is_told_at_the_deadline() -> None:
    paths = Paths()
    paths.start("a", (B,), deadline=0.75)
    paths.run(0.74)
    assert not paths.found
    paths.run(0.76)
    assert paths.found == {"a": NoPath(SESSION)}


def test_an_answer_is_never_longer_than_its_probe() -> None:
    paths = Paths()
    paths.start("a", (B,))
    paths.start("b", (A,))
    paths.run(1.0)
    assert {size for kind, size in paths.sizes["b"] if kind == ANSWER} == {HEADER_SIZE}
    assert min(PROBE_SIZES) > HEADER_SIZE


def a_probe() -> bytes:
    effect = Prober(random.Random(5)).handle(StartProbing(SESSION, KEY, (B,), 3.0), 0.0)[0]
    assert isinstance(effect, SendDatagram)
    return effect.data


@pytest.mark.parametrize(
    "packet",
    [
        b"\x00",
        a_probe()[:20],
        a_probe()[:-1],
        a_probe() + b"\x00",
        bytes([a_probe()[0] ^ 2]) + a_probe()[1:],
        a_probe()[:1] + b"unknown!" + a_probe()[9:],
        a_probe()[:30] + bytes([a_probe()[30] ^ 1]) + a_probe()[31:],
        b"\x01" + a_probe()[1:],
    ],
    ids=["one byte", "cut off", "shorter", "longer", "another type", "unknown session", "wrong MAC", "as an answer"],
)
def test_a_packet_that_is_not_authentic_is_not_answered(packet: bytes) -> None:
    prober = Prober(random.Random(1))
    prober.handle(StartProbing(SESSION, KEY, (), 3.0), 0.0)
    assert prober.handle(DatagramReceived(packet, B), 0.1) == []
    assert prober.dropped == 1


def test_our_own_probe_sent_back_is_not_answered() -> None:
    prober = Prober(random.Random(1))
    probe = prober.handle(StartProbing(SESSION, KEY, (B,), 3.0), 0.0)[0]
    assert isinstance(probe, SendDatagram)
    assert prober.handle(DatagramReceived(probe.data, B), 0.1) == []


def test_learned_addresses_are_bounded() -> None:
    prober = Prober(random.Random(1))
    prober.handle(StartProbing(SESSION, KEY, (), 3.0), 0.0)
    probe = a_probe()
    probed: set[SocketAddress] = set()
    for port in range(1, 100):
        effects = prober.handle(DatagramReceived(probe, ("10.9.9.9", port)), 0.1)
        probed |= {effect.address for effect in effects if isinstance(effect, SendDatagram) and effect.data[0] == 0}
    assert len(probed) == 2 * MAX_CANDIDATES


def test_sessions_are_bounded_and_forgotten() -> None:
    prober = Prober(random.Random(1))
    for number in range(MAX_PROBE_SESSIONS):
        prober.handle(StartProbing(number.to_bytes(8, "big"), KEY, (B,), 3.0), 0.0)
    assert prober.handle(StartProbing(b"too many", KEY, (B,), 3.0), 0.0) == [NoPath(b"too many")]
    prober.handle(StopProbing(bytes(8)), 0.0)
    assert isinstance(prober.handle(StartProbing(b"one more", KEY, (B,), 3.0), 0.0)[0], SendDatagram)
    prober.tick(3.0)
    assert prober.next_deadline() == 3.0 + PROBE_LINGER_S
    prober.tick(3.0 + PROBE_LINGER_S)
    assert prober.next_deadline() is None


def test_after_the_search_the_other_sides_probes_are_still_answered() -> None:
    prober = Prober(random.Random(1))
    prober.handle(StartProbing(SESSION, KEY, (), 1.0), 0.0)
    assert prober.tick(1.0) == [NoPath(SESSION)]
    effects = prober.handle(DatagramReceived(a_probe(), B), 2.0)
    assert [effect.data[0] for effect in effects if isinstance(effect, SendDatagram)] == [ANSWER]
