"""A simulated node: the machines of a real one, composed as a real one composes them, over a `SimNetwork`.

It has a roster, a mesh, messages (sim_talk.py), files (sim_files.py), a clock that may be wrong and jump
(sim_clock.py), and a disk that may be full, fail, or lose what was not synced (sim_disk.py, sim_store.py). Where its
pool has statements it knows who is a member (sim_standing.py), else everybody is who is there. A node lives several
times: each `join` begins a life with what is on the disk.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, assert_never

from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import Role, Statement
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.limits import MAX_QUEUED_FRAMES, MAX_TEMPORARY_LINKS
from poolnet.protocol import agreement, gossip, mesh
from poolnet.protocol.holding import HeldMessages
from poolnet.protocol.key_set import MemoryKeys
from poolnet.protocol.rings import Roster
from poolnet.protocol.routes import hops_to_holder
from poolnet.testing import sim_messages
from poolnet.testing.sim_clock import SimClock
from poolnet.testing.sim_disk import SimDisk
from poolnet.testing.sim_files import SimFiles, SimPiece
from poolnet.testing.sim_life import Misbehaved, SimLife
from poolnet.testing.sim_network import SimNetwork
from poolnet.testing.sim_server import SimSyncServer
from poolnet.testing.sim_sizes import count_items
from poolnet.testing.sim_standing import STATEMENT_FRAMES, SimCharter, SimStanding
from poolnet.testing.sim_store import SimStore
from poolnet.testing.sim_talk import SimTalk
from poolnet.testing.sim_timer import SimTimer
from poolnet.wire import swarm_frames
from poolnet.wire.claims import Bound
from poolnet.wire.link_frames import Ping
from poolnet.wire.sync_frames import RosterEntry

_SWARM_ITEMS = (SimPiece, *swarm_frames.SWARM_FRAMES)


class SimNode:
    """One node of a simulated pool. `join` brings it into the network, `leave` or `crash` takes it out.

    Args:
        clock_error_ms: by how much its clock is ahead.
        is_founder: has the history from the beginning; others are newcomers at first.
        key: its device key, and
        charter: how its pool began, if that has statements.
    """

    is_liar = False

    def __init__(
        self,
        network: SimNetwork,
        server: SimSyncServer,
        host_id: DeviceId,
        *,
        clock_error_ms: int = 0,
        is_founder: bool = False,
        key: DeviceKey | None = None,
        charter: SimCharter | None = None,
    ) -> None:
        self.host_id = host_id
        #: What it knows of who is in the pool; None where everybody is.
        self.standing: SimStanding | None = None
        self._key = key
        self._charter = charter
        self._statements: list[Statement] = []
        self.clock_error_ms = clock_error_ms
        #: What it writes on: may be filled, or fail.
        self.disk = SimDisk(network, host_id.hex())
        #: Own messages that are synced: no crash loses them.
        self.acknowledged: set[MsgId] = set()
        #: Files that it fetched and has complete and synced, and since when.
        self.completed: dict[FileId, float] = {}
        #: Files that it has from elsewhere, and their sizes.
        self.sources: dict[FileId, int] = {}
        #: Over how many links each message came (0: own, or fetched), and when it was stored first.
        self.hops: dict[MsgId, int] = {}
        self.delivered_at: dict[MsgId, float] = {}
        #: What peers did that no honest node does.
        self.misbehaviour: list[Misbehaved] = []
        #: Messages that were fetched although they were here.
        self.fetched_twice = 0
        self.store = SimStore(self.disk, is_founder=is_founder)
        self._network = network
        self._server = server
        self._held_back: dict[DeviceId, deque[Any]] = {}
        self._early: dict[DeviceId, tuple[bool, deque[Any]]] = {}  # who dialled, and what came before we may talk
        self._start()

    # --- what it does -------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Enter the network and attach to the server, unless it knows that it was removed from the pool."""
        self._end()
        self.disk.reopen()
        self._start()
        if self.is_removed and not self.is_liar:
            self._end()
            return
        self._network.add_host(self)
        self._server.attach(self)

    def leave(self) -> None:
        """Say goodbye to the server and on all links."""
        self._end()
        self._server.detach(self)
        self._network.remove_host(self.host_id)
        self._mesh_timer.stop()  # nobody to dial; messages and files wait for the next life
        self.store.load()  # what the disk did not take is gone

    def crash(self) -> None:
        """Lose power: vanish without a word, with everything that is not synced."""
        self._end()
        self._network.crash(self.host_id)
        self.disk.crash()
        self.store.load()

    def publish(self, text: bytes) -> MsgId:
        """Send a message to everyone. It is in `acknowledged` once it is synced.

        Raises:
            StoreError: the disk does not take it (`DiskFull`), or failed to sync in this life; nobody hears of it.
        """
        msg_id = self.talk.publish(text, self.host_id)
        self.disk.sync(partial(self._synced, msg_id))
        return msg_id

    def offer(self, file_id: FileId, size_bytes: int) -> MsgId:
        """Offer a file that it has from elsewhere; return the message that says so.

        Raises:
            StoreError: as for `publish`.
        """
        msg_id = self.publish(sim_messages.offer_text(file_id, size_bytes))
        self.sources[file_id] = size_bytes
        self.files.serve(file_id, size_bytes)
        return msg_id

    def fetch(self, file_id: FileId) -> None:
        """Fetch a file as soon as it is offered, over all crashes; it is in `completed` once it is here and synced.

        Raises:
            StoreError: the disk does not take note of it.
        """
        self.files.fetch(file_id)
        self._want_holders()

    def ask(self, event: agreement.FetchOlder | agreement.Check | agreement.Cancel) -> None:
        """Make a request of the agreement machine; the answer goes to `finished`."""
        self.talk.handle_agreement(event)

    # --- what can be seen ---------------------------------------------------------------------------------------

    def corrected_ms(self) -> int:
        """Return what time it takes it to be."""
        return self._clock.corrected_ms()

    @property
    def is_removed(self) -> bool:
        """Whether it knows that it is out of the pool."""
        return self.standing is not None and self.standing.is_out

    @property
    def is_up(self) -> bool:
        """Whether it is in the network."""
        return self._network.is_up(self)

    @property
    def links(self) -> frozenset[DeviceId]:
        """The peers that it is linked to."""
        return self.mesh.linked if self.is_up else frozenset()

    @property
    def history(self) -> dict[MsgId, bytes]:
        """Every message on its disk."""
        return self.store.history

    @property
    def keys(self) -> MemoryKeys:
        """The places of these messages, in order."""
        return self.store.keys

    @property
    def known_from(self) -> Bound | None:
        """Where the history begins that it keeps in agreement; None for a newcomer."""
        return self.store.known_from

    @property
    def wanted(self) -> frozenset[FileId]:
        """The files that `fetch` was called for, as its disk knows them."""
        return frozenset(self.store.wanted)

    @property
    def finished(self) -> dict[int, bool]:
        """Requests (`ask`) that are answered, and how."""
        return self.talk.finished

    @property
    def gossip(self) -> gossip.Gossip:
        """The gossip machine of this life."""
        return self.talk.gossip

    @property
    def agreement(self) -> agreement.Agreement:
        """The agreement machine of this life."""
        return self.talk.agreement

    @property
    def held(self) -> HeldMessages:
        """Messages whose time has not come."""
        return self.talk.held

    def memory_items(self) -> dict[str, int]:
        """Return the sizes of all queues, tables and windows that a peer could fill; see `count_items`.

        The history is not among them, which is on disk. Takes about a millisecond.
        """
        sizes = {"held_back": sum(len(frames) for frames in self._held_back.values()), "unsaved": self.store.unsaved}
        parts = {
            "mesh": self.mesh,
            "gossip": self.talk.gossip,
            "agreement": self.talk.agreement,
            "held": self.talk.held,
            "swarm": self.files.swarm,
        }
        for name, part in parts.items():
            sizes.update(count_items(part, name))
        sizes.update(count_items(self.files, "files", without=[self.files.swarm]))
        return sizes

    # --- lives --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Begin a life in the network with what is on disk."""
        network, store = self._network, self.store
        life = self.life = SimLife(network=network, host_id=self.host_id, send=self._send, blame=self._blame)
        self.roster = Roster()
        self.mesh = mesh.Mesh(self.host_id, self.roster, network.random_for(f"mesh of {self.host_id.hex()}"))
        made, seen = store.last_stamps(self.host_id)
        self._clock = SimClock(network, error_ms=lambda: self.clock_error_ms, made=made, seen=seen, send=self._send)
        self._mesh_timer = SimTimer(network, self.mesh.next_deadline, self._tick_mesh)
        self._clock_timer = SimTimer(network, self._clock.next_deadline, self._clock.tick)
        self._start_standing(life)
        if self.standing is None:
            self.talk = SimTalk(life, store, self._clock, self)
        else:
            self.talk = SimTalk(life, store, self._clock, self, vet=self.standing.judge)
            self.talk.membership_changed()
        self.files = SimFiles(
            life,
            store,
            sources=self.sources,
            hops_to=lambda holders: hops_to_holder(self.roster, self.host_id, self.mesh.linked, holders),
            completed=self._file_completed,
            send_piece=self._send_piece,
        )
        self._held_back.clear()
        self._early.clear()
        self._direct: set[DeviceId] = set()
        self._clock_timer.rearm()

    def _start_standing(self, life: SimLife) -> None:
        if self._charter is not None and self._key is not None:
            self.standing = SimStanding(
                life,
                self._key,
                self._charter,
                self._statements,
                tell_server=partial(self._server.tell, self),
                changed=self._standing_changed,
                ready=self._begin_talk,
            )

    def _end(self) -> None:
        """End a life: nothing that was begun in it goes on."""
        self.life.is_over = True
        self.talk.end()
        self.files.end()
        self._mesh_timer.stop()
        self._clock_timer.stop()

    def _synced(self, msg_id: MsgId, is_durable: bool) -> None:
        if is_durable:
            self.acknowledged.add(msg_id)

    # --- what the network says ----------------------------------------------------------------------------------

    def may_accept(self, peer: DeviceId) -> bool:
        """Ask the mesh about members."""
        return (self.standing is None or self.standing.would_admit(peer)) and self.mesh.may_accept(peer)

    def link_up(self, peer: DeviceId, *, is_dialler: bool) -> None:
        """Tell the mesh, the time, then messages and files."""
        self._held_back[peer] = deque()
        self._handle_mesh(mesh.LinkUp(peer, is_dialler))
        self._clock.link_up(peer)
        if self.standing is None:
            self.talk.link_up(peer, is_dialler=is_dialler, is_steady=self.mesh.is_steady(peer))
        else:
            self._early[peer] = (is_dialler, deque())
            self.standing.link_up(peer)
            if not self.standing.membership.is_member(peer):
                self._network.close_link(self.host_id, peer)
        self.files.link_up(peer)
        self.files.overlay_changed()

    def link_down(self, peer: DeviceId) -> None:
        """Tell files and messages, then the mesh."""
        self._held_back.pop(peer, None)
        self._clock.link_down(peer)
        self.files.link_down(peer)
        if self.standing is not None:
            self.standing.link_down(peer)
        if self._early.pop(peer, None) is None:
            self.talk.link_down(peer)
        self._handle_mesh(mesh.LinkDown(peer))
        self.files.overlay_changed()

    def dial_failed(self, peer: DeviceId) -> None:
        """Tell the mesh."""
        self._handle_mesh(mesh.DialFailed(peer))

    def received(self, peer: DeviceId, frame: Any) -> None:
        """Give a frame to the machine that it is for; while the disk takes nothing, it waits, as its link does."""
        waiting = self._held_back.get(peer)
        if waiting is None or isinstance(frame, SimPiece):
            self._dispatch(peer, frame)
        elif waiting or self.talk.is_full:
            waiting.append(frame)
            if len(waiting) > MAX_QUEUED_FRAMES:  # the other side closes a link on which nothing is taken
                self._network.reset_link(self.host_id, peer)
        else:
            self._dispatch(peer, frame)

    def _dispatch(self, peer: DeviceId, frame: Any) -> None:
        if isinstance(frame, Ping):
            self._clock.received(peer, frame)
            self.talk.clock_changed()
        elif isinstance(frame, _SWARM_ITEMS):
            self.files.received(peer, frame)
        elif isinstance(frame, STATEMENT_FRAMES):
            if self.standing is not None:
                self.standing.received(peer, frame)
        elif peer in self._early:
            self._early[peer][1].append(frame)
        else:
            self.talk.received(peer, frame)

    def disk_has_room(self) -> None:
        """Take what was held back on the links."""
        for peer, waiting in list(self._held_back.items()):
            while waiting and not self.talk.is_full and self._held_back.get(peer) is waiting:
                self._dispatch(peer, waiting.popleft())

    # --- who is in the pool -------------------------------------------------------------------------------------

    def statements(self) -> list[Statement]:
        """Return all statements that it knows."""
        return list(self._statements)

    def statements_told(self, statements: Sequence[Statement]) -> None:
        """Take what the server knows, and pass it on; tell it what it does not know."""
        if self.standing is not None:
            self.standing.take(statements)

    def remove(self, device: DeviceId) -> None:
        """State that somebody is out; without effect if this node may not."""
        if self.standing is not None:
            self.standing.remove(device, self._clock.hybrid.tick(self._clock.unix_ms()))

    def set_role(self, device: DeviceId, role: Role) -> None:
        """State that somebody is an admin, or is none any more; without effect if this node may not."""
        if self.standing is not None:
            self.standing.set_role(device, role, self._clock.hybrid.tick(self._clock.unix_ms()))

    def _begin_talk(self, peer: DeviceId) -> None:
        """Talk with a neighbour that knows our statements, so whom our messages are from."""
        if peer not in self._early:
            return
        is_dialler, early = self._early.pop(peer)
        self.talk.link_up(peer, is_dialler=is_dialler, is_steady=self.mesh.is_steady(peer))
        for frame in early:
            self._dispatch(peer, frame)

    def _standing_changed(self) -> None:
        """Part with those who are out, and forget what they said since; go if this is one of them."""
        if self.standing is None:
            return
        for peer in self.mesh.linked:
            if not self.standing.membership.is_member(peer):
                self._network.close_link(self.host_id, peer)
        if not self.is_removed:
            self.talk.membership_changed()
        elif not self.is_liar:
            self._network.call_later(0.0, partial(self._go, self.life))

    def _go(self, life: SimLife) -> None:
        if not life.is_over and self.is_up:
            self.leave()

    # --- what the server says -----------------------------------------------------------------------------------

    def server_says(self, unix_ms: int) -> None:
        """Believe it as much as anybody else; what was held may be due."""
        self._clock.server_says(unix_ms)
        self.talk.clock_changed()

    def roster_reset(self, epoch: int, entries: list[RosterEntry]) -> None:
        """Take over the whole roster."""
        change = self.roster.reset(epoch, entries)
        self._roster_changed(change.joined)

    def node_joined(self, epoch: int, entry: RosterEntry) -> None:
        """Apply an event, or ask for the whole roster after a gap."""
        if not self.roster.apply_joined(epoch, entry):
            self._server.attach(self)
        self._roster_changed(frozenset((entry.node,)))

    def node_left(self, epoch: int, node: DeviceId) -> None:
        """Apply an event, or ask for the whole roster after a gap."""
        if not self.roster.apply_left(epoch, node):
            self._server.attach(self)
        self._roster_changed(frozenset())

    def _roster_changed(self, joined: frozenset[DeviceId]) -> None:
        self._handle_mesh(mesh.RosterChanged(joined))
        self._want_holders()
        self.files.overlay_changed()

    # --- links --------------------------------------------------------------------------------------------------

    def _handle_mesh(self, event: mesh.MeshEvent) -> None:
        self._perform_mesh(self.mesh.handle(event, self._network.now))
        self._mesh_timer.rearm()

    def _tick_mesh(self) -> None:
        self._perform_mesh(self.mesh.tick(self._network.now))

    def _perform_mesh(self, effects: list[mesh.MeshEffect]) -> None:
        for effect in effects:
            match effect:
                case mesh.Dial(peer):
                    self._network.dial(self.host_id, peer)
                case mesh.CloseLink(peer):
                    self._network.close_link(self.host_id, peer)
                case mesh.Unreachable(peer):
                    self._server.report(self.host_id, peer)
                case _:
                    assert_never(effect)

    def _want_holders(self) -> None:
        """Have links to some of those who offer what is fetched, as poolnet/pool/placement.py does."""
        holders = self.files.holders() & self.roster.nodes - {self.host_id}
        wanted = set(sorted(holders)[:MAX_TEMPORARY_LINKS])
        for peer in sorted(self._direct - wanted):
            self._handle_mesh(mesh.DropDirect(peer))
        for peer in sorted(wanted - self._direct):
            self._handle_mesh(mesh.WantDirect(peer))
        self._direct = wanted

    def _send(self, peer: DeviceId, frame: Any) -> None:
        self._network.send(self.host_id, peer, frame)

    def _send_piece(self, peer: DeviceId, item: SimPiece, size_bytes: int, sent: Callable[[], None]) -> None:
        note = b"piece %d of %s" % (item.piece, item.file_id)
        self._network.send_bulk(self.host_id, peer, item, size_bytes=size_bytes, note=note, sent=sent)

    def _blame(self, effect: Misbehaved, *, closes_link: bool) -> None:
        self.misbehaviour.append(effect)
        if closes_link:
            self._network.close_link(self.host_id, effect.peer)

    # --- what its parts say -------------------------------------------------------------------------------------

    def message_stored(self, msg_id: MsgId, hops: int) -> None:
        """Note how a message came, and look whether it offers a file."""
        self.hops.setdefault(msg_id, hops)
        self.delivered_at.setdefault(msg_id, self._network.now)
        if (offer := sim_messages.offered(self.store.history[msg_id])) is not None:
            self.files.offer_heard(offer[0])
            self._want_holders()

    def _file_completed(self, file_id: FileId) -> None:
        self.completed.setdefault(file_id, self._network.now)
        self._want_holders()
