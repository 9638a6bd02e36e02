"""Nodes that only agree: the machine, keys in memory, links that a test delivers by hand or at random."""

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from blake3 import blake3

from poolnet.clock import Hlc, make_hlc
from poolnet.ids import DeviceId, MsgId
from poolnet.protocol import agreement
from poolnet.protocol.reconcile import HIGHEST, LOWEST, Bound, MemoryKeys
from poolnet.wire.framing import FrameSet, encode_frame
from poolnet.wire.message import MessageKey
from poolnet.wire.pool_frames import POOL_FRAMES, Messages

#: The time at which worlds begin.
START_MS = 1_750_000_000_000
DAY_S = 24 * 3600
#: An encoded message is its stamp and padding.
_STAMP_SIZE = 8
_FRAMES = FrameSet(POOL_FRAMES)


def encode_key(key: MessageKey) -> bytes:
    return key[0].to_bytes(_STAMP_SIZE, "big") + key[1]


def make_key(number: int, *, age_s: float = 0.0) -> MessageKey:
    """Return the key of a message that is so old; the number tells it from others of the same age."""
    return Hlc(make_hlc(round(START_MS - age_s * 1000))), MsgId(blake3(b"%d" % number).digest())


def make_keys(numbers: Iterable[int], *, oldest_s: float = 3600.0, step_s: float = 1.0) -> list[MessageKey]:
    return [make_key(number, age_s=oldest_s - number * step_s) for number in numbers]


class Node:
    """One node. What it takes in waits in `inbox` until `store` is called, as on the way to a disk."""

    def __init__(self, world: "World", name: str, keys: Iterable[MessageKey], known_from: Bound | None) -> None:
        self.name = DeviceId(name.encode().ljust(32, b"."))
        self.keys = MemoryKeys(keys)
        self.ids = {msg_id: hlc for hlc, msg_id in self.keys}
        self.inbox: dict[MsgId, MessageKey] = {}
        self.held: set[MsgId] = set()
        self.refused: set[MsgId] = set()
        self.known_from = known_from
        self.floor = LOWEST
        self.finished: dict[int, bool] = {}
        self.agreed: list[agreement.Agreed] = []
        self.misbehaved: list[agreement.Misbehaved] = []
        self.payloads = 0
        self.is_quick = False  # stores messages before it says that they have come
        self.steps: deque[agreement.Step] = deque()
        self.served: deque[agreement.Serve] = deque()
        self._world = world
        self.start()

    def start(self) -> None:
        """Begin anew with what is on disk."""
        self.inbox.clear()
        self.steps.clear()
        self.served.clear()
        self.machine = agreement.Agreement(
            Random(f"{self._world.seed} {self.name!r}"),
            unix_ms=lambda: round(START_MS + self._world.now * 1000),
            is_pending=self.inbox.__contains__,
            is_held=self.held.__contains__,
            known_from=self.known_from,
            floor=self.floor,
        )

    def handle(self, event: agreement.AgreementEvent) -> None:
        self.perform(self.machine.handle(event, self._world.now))

    def perform(self, effects: list[agreement.AgreementEffect]) -> None:
        for effect in effects:
            match effect:
                case agreement.SendFrame(peer, frame):
                    self._world.send(self, peer, frame)
                case agreement.Step():
                    self.steps.append(effect)
                case agreement.Serve():
                    self.served.append(effect)
                case agreement.Finished(request, ok):
                    assert request not in self.finished
                    self.finished[request] = ok
                case agreement.KnownFrom(bound):
                    assert self.known_from is None or bound < self.known_from
                    self.known_from = bound
                case agreement.Agreed():
                    self.agreed.append(effect)
                case agreement.Misbehaved():
                    self.misbehaved.append(effect)

    def is_newcomer(self) -> bool:
        return self.known_from is None

    def add(self, *keys: MessageKey) -> None:
        """Let messages be stored that came some other way."""
        for key in keys:
            self.keys.add(key)
            self.ids[key[1]] = key[0]
        self.handle(agreement.Stored(tuple(msg_id for _, msg_id in keys)))

    def remove(self, key: MessageKey) -> None:
        """Delete a message, as a retraction does."""
        self.keys.remove(key)
        del self.ids[key[1]]

    def receive(self, peer: DeviceId, frame: Any) -> None:
        if not isinstance(frame, Messages):
            self.handle(agreement.Received(peer, frame))
            return
        ids = []
        for encoded in frame.messages:
            key = (Hlc(int.from_bytes(encoded[:_STAMP_SIZE], "big")), MsgId(encoded[_STAMP_SIZE:]))
            ids.append(key[1])
            self.payloads += 1
            if key[1] not in self.refused:
                self.inbox[key[1]] = key
        if self.is_quick:
            self.store()
        self.handle(agreement.Arrived(peer, frame.number, tuple(ids), frame.is_last))

    def step(self) -> None:
        """Let the database do one thing."""
        effect = self.steps.popleft()
        self.handle(agreement.Stepped(effect.step, effect.call(self.keys)))

    def serve(self) -> None:
        """Send what was asked for first."""
        effect = self.served.popleft()
        found = [encode_key((self.ids[msg_id], msg_id)) for msg_id in effect.ids if msg_id in self.ids]
        for frame in agreement.pack_messages(effect.number, found):
            self._world.send(self, effect.peer, frame)
        self.handle(agreement.Served(effect.peer, effect.number))

    def store(self) -> None:
        """Store what has come."""
        keys = [key for key in self.inbox.values() if key[1] not in self.held]
        ids = tuple(self.inbox)
        self.inbox.clear()
        for key in keys:
            self.keys.add(key)
            self.ids[key[1]] = key[0]
        self.handle(agreement.Stored(ids))

    def tick(self) -> None:
        deadline = self.machine.next_deadline()
        if deadline is not None and deadline <= self._world.now:
            self.perform(self.machine.tick(self._world.now))


class World:
    """Nodes and links. Frames are encoded and decoded on the way, in order on each link."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.now = 0.0
        self.nodes: dict[DeviceId, Node] = {}
        self.bytes_sent = 0
        self.frames_sent = 0
        self._queues: dict[tuple[DeviceId, DeviceId], deque[bytes]] = {}
        self._rng = Random(seed)

    def add(self, name: str, keys: Iterable[MessageKey] = (), *, known_from: Bound | None = LOWEST) -> Node:
        node = Node(self, name, keys, known_from)
        self.nodes[node.name] = node
        return node

    def link(self, dialler: Node, other: Node) -> None:
        self._queues[dialler.name, other.name] = deque()
        self._queues[other.name, dialler.name] = deque()
        dialler.handle(agreement.LinkUp(other.name, is_dialler=True))
        other.handle(agreement.LinkUp(dialler.name, is_dialler=False))

    def unlink(self, one: Node, other: Node) -> None:
        """Break a link; what is under way on it is lost."""
        del self._queues[one.name, other.name], self._queues[other.name, one.name]
        one.handle(agreement.LinkDown(other.name))
        other.handle(agreement.LinkDown(one.name))

    def is_linked(self, one: Node, other: Node) -> bool:
        return (one.name, other.name) in self._queues

    def send(self, sender: Node, peer: DeviceId, frame: Any) -> None:
        queue = self._queues.get((sender.name, peer))
        if queue is not None:
            encoded = encode_frame(frame)
            self.bytes_sent += len(encoded)
            self.frames_sent += 1
            queue.append(encoded)

    def moves(self) -> list[Callable[[], None]]:
        """Return all that could happen next."""
        found: list[Callable[[], None]] = []
        for (sender, receiver), queue in self._queues.items():
            if queue:
                found.append(lambda pair=(sender, receiver): self._deliver(*pair))  # type: ignore[misc]
        for node in self.nodes.values():
            found += [node.step] if node.steps else []
            found += [node.serve] if node.served else []
            found += [node.store] if node.inbox else []
        return found

    def move(self) -> bool:
        """Let one thing happen, at random; returns whether there was any."""
        moves = self.moves()
        if moves:
            self._rng.choice(moves)()
        return bool(moves)

    def settle(self) -> None:
        """Let everything happen that takes no time."""
        while self.move():
            pass

    def run_for(self, duration_s: float) -> None:
        """Let time pass: everything happens at once, and what is due at its time."""
        end = self.now + duration_s
        self.settle()
        while True:
            deadlines = [node.machine.next_deadline() for node in self.nodes.values()]
            earliest = min((at for at in deadlines if at is not None), default=end)
            if earliest > end:
                break
            self.now = max(self.now, earliest)
            for node in self.nodes.values():
                node.tick()
            self.settle()
            if earliest == end:
                break
        self.now = end

    def assert_all_have(self, keys: Iterable[MessageKey]) -> None:
        expected = sorted(keys)
        for node in self.nodes.values():
            assert list(node.keys) == expected, node.name

    def _deliver(self, sender: DeviceId, receiver: DeviceId) -> None:
        encoded = self._queues[sender, receiver].popleft()
        self.nodes[receiver].receive(sender, _FRAMES.decode_untrusted(encoded[4:]))


__all__ = ["DAY_S", "HIGHEST", "LOWEST", "START_MS", "Node", "World", "encode_key", "make_key", "make_keys"]
