"""A sync server and nodes as machines in one process: frames in queues, a dict for a store, a number for time."""

from collections import deque
from random import Random

from poolnet.clock import Hlc, make_hlc
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership, removal_keep
from poolnet.identity.statements import (
    Role,
    Statement,
    decode_statement_untrusted,
    encode_statement,
    make_genesis,
    make_invite,
    make_join,
    make_removal,
)
from poolnet.identity.user import found_user
from poolnet.ids import DeviceId, PoolId
from poolnet.protocol import attachment
from poolnet.protocol.attachment import Attachment
from poolnet.protocol.rings import Roster
from poolnet.server import events
from poolnet.server.core import ServerCore
from poolnet.server.events import StoredPool
from poolnet.server.wanted import ClientId
from poolnet.wire.framing import FrameBuffer, FrameSet, encode_frame
from poolnet.wire.sync_frames import SYNC_FRAMES, Address, RosterEntry

START_UNIX_MS = 1_800_000_000_000
_FRAMES = FrameSet(SYNC_FRAMES)


def device_key(number: int) -> DeviceKey:
    """Return the key of test device `number`."""
    return DeviceKey.from_seed(number.to_bytes(32, "big"))


def over_the_wire(frame):
    """Return `frame` as the other side decodes it."""
    buffer = FrameBuffer()
    buffer.feed_untrusted(encode_frame(frame))
    return _FRAMES.decode_untrusted(buffer.take())


class PoolMaker:
    """Makes the statements of one pool, with stamps that count up."""

    def __init__(self, *, founder: DeviceKey | None = None, unix_ms: int = START_UNIX_MS) -> None:
        self.founder = founder or device_key(1)
        self._unix_ms = unix_ms
        self._counter = 0
        self._invites = 0
        self.genesis = make_genesis(self.founder, name="a pool", nonce=bytes(16), hlc=self.hlc())
        self.pool_id = PoolId(self.genesis.statement_id)

    def hlc(self) -> Hlc:
        self._counter += 1
        return make_hlc(self._unix_ms, self._counter)

    def invite(self, *, by: DeviceKey | None = None, uses: int | None = None, lifetime_s: float = 3600):
        """Return the invite's secret key and its statement."""
        self._invites += 1
        secret = DeviceKey.from_seed(b"invite".ljust(28, b".") + self._invites.to_bytes(4, "big"))
        statement = make_invite(
            by or self.founder,
            pool_id=self.pool_id,
            invite_key=secret.public_key,
            role=Role.MEMBER,
            expires_unix_ms=self._unix_ms + int(lifetime_s * 1000),
            uses=uses,
            hlc=self.hlc(),
        )
        return secret, statement

    def join(self, key: DeviceKey, secret: DeviceKey) -> Statement:
        user = found_user(key, unix_ms=self._unix_ms, device_name="device")
        return make_join(key, secret, pool_id=self.pool_id, user=user, hlc=self.hlc())

    def removal(self, device: DeviceId, membership: Membership) -> Statement:
        keep = removal_keep(membership, device)
        return make_removal(self.founder, pool_id=self.pool_id, device=device, keep=keep, hlc=self.hlc())


class Node:
    """A node: its statements, its attachment, and what it was told."""

    def __init__(
        self, key: DeviceKey, pool_id: PoolId, statements: list[Statement], *, host: str = "192.0.2.1"
    ) -> None:
        self.key = key
        self.device = key.device_id
        self.address = Address(host=host, port=4000)
        self.membership = Membership(pool_id)
        for statement in statements:
            self.membership.add(statement)
        own = tuple(encode_statement(s) for s in statements if s.author == self.device)
        self.attachment = Attachment(self.membership, self.device, credentials=own[:1])
        self.roster = Roster()
        self.client: ClientId | None = None
        self.closed: list[str] = []
        self.refused: list[attachment.AttachRefused] = []
        self.signals: list[tuple[DeviceId, bytes]] = []
        self.observed: attachment.Observed | None = None
        self.joined: list[DeviceId] = []
        self.left: list[DeviceId] = []

    @property
    def is_attached(self) -> bool:
        return self.attachment.is_attached

    @property
    def statement_ids(self):
        return set(self.membership.ids())


class SyncWorld:
    """One server, any number of nodes. Frames go through queues, one per client and direction, in order."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = Random(seed)
        self.now = 1000.0
        self.unix_ms = START_UNIX_MS
        self.stored: dict[PoolId, dict] = {}
        self.core = ServerCore(self.rng, now=self.now)
        self.nodes: dict[ClientId, Node] = {}
        self.to_server: dict[ClientId, deque] = {}
        self.to_node: dict[ClientId, deque] = {}
        self.clients = 0
        self.log: list[tuple[ClientId, object]] = []
        self.store_fails = False

    # --- what tests do ---------------------------------------------------------------------------------------

    def connect(self, node: Node) -> ClientId:
        """Give `node` a link; what follows from it happens in `run` or `step`."""
        client = self.clients = ClientId(self.clients + 1)
        node.client = client
        self.nodes[client] = node
        self.to_server[client], self.to_node[client] = deque(), deque()
        self._server(
            events.ClientConnected(
                client=client, device=node.device, pool_id=node.membership.pool_id, address=node.address
            )
        )
        self.node_event(node, attachment.Connected())
        return client

    def drop(self, node: Node) -> None:
        """Break the link of `node`; frames under way are lost."""
        client = node.client
        assert client is not None
        self._cut(client)
        self._server(events.ClientGone(client=client))

    def node_event(self, node: Node, event) -> None:
        self._perform_node(node, node.attachment.handle(event, self.now))

    def learn(self, node: Node, *statements: Statement) -> None:
        """Have `node` make statements of its own."""
        for statement in statements:
            node.membership.add(statement)
        encoded = tuple(encode_statement(statement) for statement in statements)
        self.node_event(node, attachment.StatementsMade(encoded))

    def send(self, client: ClientId, frame) -> None:
        """Send a frame to the server as `client` would."""
        if client in self.to_server:
            self.to_server[client].append(over_the_wire(frame))

    def step(self) -> bool:
        """Deliver one frame of a random queue; False if all are empty."""
        queues = [queue for queue in (*self.to_server.items(), *self.to_node.items()) if queue[1]]
        if not queues:
            return False
        client, queue = self.rng.choice(queues)
        frame = queue.popleft()
        if self.to_server.get(client) is queue:
            self._server(events.FrameReceived(client=client, frame=frame, unix_ms=self.unix_ms))
        else:
            self._to_node(client, frame)
        return True

    def run(self) -> None:
        """Deliver everything."""
        while self.step():
            pass

    def attach(self, *nodes: Node) -> None:
        """Connect and let everything settle."""
        for node in nodes:
            self.connect(node)
        self.run()

    def pass_time(self, seconds: float) -> None:
        """Let time pass; deadlines are met in order, everything settles after each."""
        end = self.now + seconds
        self.run()
        while (deadline := self.core.next_deadline()) is not None and deadline <= end:
            self._advance(max(self.now, deadline))
            self._perform_server(self.core.tick(self.now))
            self.run()
        self._advance(end)

    def restart_server(self, *, after_s: float = 0.0) -> None:
        """Kill the server and start another on the same store."""
        for client in list(self.nodes):
            self._cut(client)
        self._advance(self.now + after_s)
        self.core = ServerCore(self.rng, now=self.now)

    # --- how it works ----------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        self.unix_ms += int((now - self.now) * 1000)
        self.now = now

    def _cut(self, client: ClientId) -> None:
        node = self.nodes.pop(client)
        del self.to_server[client], self.to_node[client]
        if node.client == client:
            node.client = None
            self.node_event(node, attachment.Disconnected())

    def _server(self, event) -> None:
        self._perform_server(self.core.handle(event, self.now))

    def _perform_server(self, effects) -> None:
        saves = [effect for effect in effects if isinstance(effect, events.SaveEffect)]
        if saves and self.store_fails:
            for pool_id in {save.pool_id for save in saves}:
                self._server(events.StoreFailed(pool_id=pool_id))
            return
        for save in saves:
            self._save(save)
        for effect in effects:
            self._perform_one(effect)

    def _perform_one(self, effect) -> None:
        match effect:
            case events.SendFrame(client, frame):
                self.log.append((client, frame))
                if client in self.to_node:
                    self.to_node[client].append(over_the_wire(frame))
            case events.CloseClient(client, code, _):
                if client in self.to_node:
                    self.nodes[client].closed.append(code)
                    self.to_node[client].append(None)
            case events.LoadPool(pool_id):
                self._server(events.PoolLoaded(pool_id=pool_id, stored=self.stored_pool(pool_id)))

    def stored_pool(self, pool_id: PoolId) -> StoredPool | None:
        pool = self.stored.get(pool_id)
        if pool is None:
            return None
        roster = tuple(RosterEntry(node=node, places=places) for node, places in pool["roster"].items())
        return StoredPool(tuple(pool["statements"].values()), pool["epoch"], roster)

    def _save(self, effect) -> None:
        pool = self.stored.setdefault(effect.pool_id, {"statements": {}, "roster": {}, "epoch": 0})
        match effect:
            case events.SaveStatements(_, statements):
                pool["statements"].update(statements)
            case events.PruneStatements(_, keep):
                pool["statements"] = {item: pool["statements"][item] for item in keep}
            case events.SaveJoined(_, epoch, entry):
                pool["roster"][entry.node], pool["epoch"] = entry.places, epoch
            case events.SaveLeft(_, epoch, node):
                pool["epoch"] = epoch
                del pool["roster"][node]

    def _to_node(self, client: ClientId, frame) -> None:
        node = self.nodes[client]
        if frame is None:  # the server closed the link
            self._cut(client)
            self._server(events.ClientGone(client=client))
        elif node.client == client:
            self.node_event(node, attachment.Received(frame))

    def _perform_node(self, node: Node, effects) -> None:
        for effect in effects:
            match effect:
                case attachment.SendFrame(frame):
                    if node.client is not None:
                        self.send(node.client, frame)
                case attachment.AddStatements(statements):
                    for encoded in statements:
                        node.membership.add(decode_statement_untrusted(encoded))
                case attachment.RosterReset(epoch, entries):
                    node.roster.reset(epoch, entries)
                case attachment.NodeJoined(epoch, entry):
                    is_out = entry.node in node.membership.state.removed  # what the server may not know yet
                    assert is_out or node.membership.is_member(entry.node), "a roster event before its statement"
                    assert node.roster.apply_joined(epoch, entry)
                    node.joined.append(entry.node)
                case attachment.NodeLeft(epoch, gone):
                    assert node.roster.apply_left(epoch, gone)
                    node.left.append(gone)
                case attachment.Observed():
                    node.observed = effect
                case attachment.SignalReceived(sender, body):
                    node.signals.append((sender, body))
                case attachment.AttachRefused():
                    node.refused.append(effect)
