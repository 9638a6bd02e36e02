"""A simulated node: the machines of a real one, composed as a real one composes them, over a `SimNetwork`.

It has a roster and a mesh (sim_overlay.py), messages (sim_talk.py), files (sim_files.py), a record of what its peers
did (sim_conduct.py), a clock that may be wrong and jump (sim_clock.py), and a disk that may be full, fail, or lose what
was not synced (sim_disk.py, sim_store.py). Where its pool has statements it knows who is a member (sim_standing.py),
else everybody is who is there. A node lives several times: each `join` begins a life with what is on the disk.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs

from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import Role, Statement
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.protocol import agreement, gossip, mesh
from poolnet.protocol.holding import HeldMessages
from poolnet.protocol.key_set import MemoryKeys
from poolnet.protocol.routes import hops_to_holder
from poolnet.testing import sim_messages
from poolnet.testing.sim_clock import SimClock
from poolnet.testing.sim_conduct import SimConduct, kind_of
from poolnet.testing.sim_disk import SimDisk
from poolnet.testing.sim_files import SimFiles, SimPiece
from poolnet.testing.sim_intake import SimIntake
from poolnet.testing.sim_life import Misbehaved, SimLife
from poolnet.testing.sim_network import SimNetwork
from poolnet.testing.sim_overlay import SimOverlay
from poolnet.testing.sim_server import SimSyncServer
from poolnet.testing.sim_sizes import count_items
from poolnet.testing.sim_standing import SimCharter, SimStanding
from poolnet.testing.sim_store import SimStore
from poolnet.testing.sim_talk import SimTalk
from poolnet.testing.sim_timer import SimTimer
from poolnet.wire.claims import Bound
from poolnet.wire.sync_frames import RosterEntry


@attrs.frozen(kw_only=True)
class NodeSettings:
    """What makes a simulated node the one that it is.

    Attributes:
        host_id: its device, and its address.
        clock_error_ms: by how much its clock is ahead at first.
        is_founder: has the history from the beginning; others are newcomers at first.
        key: its device key, and
        charter: how its pool began, if that has statements.
    """

    host_id: DeviceId
    clock_error_ms: int = 0
    is_founder: bool = False
    key: DeviceKey | None = None
    charter: SimCharter | None = None


class SimNode:
    """One node of a simulated pool. `join` brings it into the network, `leave` or `crash` takes it out."""

    is_liar = False

    def __init__(self, network: SimNetwork, server: SimSyncServer, settings: NodeSettings) -> None:
        self.host_id = settings.host_id
        #: What it knows of who is in the pool; None where everybody is.
        self.standing: SimStanding | None = None
        self._settings = settings
        self._statements: list[Statement] = []
        self.clock_error_ms = settings.clock_error_ms
        #: What it writes on: may be filled, or fail.
        self.disk = SimDisk(network, self.host_id.hex())
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
        self.store = SimStore(self.disk, is_founder=settings.is_founder)
        self._network = network
        self._server = server
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
        self.overlay.want_holders(self.files.holders())

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
        sizes = {**self._intake.sizes(), "unsaved": self.store.unsaved}
        parts = {
            "mesh": self.mesh,
            "gossip": self.talk.gossip,
            "quota": self.talk.quota,
            "agreement": self.talk.agreement,
            "held": self.talk.held,
            "swarm": self.files.swarm,
            "conduct": self.conduct.machine,
            "clock": self._clock,
        }
        for name, part in parts.items():
            sizes.update(count_items(part, name))
        sizes.update(count_items(self.files, "files", without=[self.files.swarm]))
        sizes["files.outgoing"] = self.files.longest_queue
        if self.standing is not None:
            sizes.update(count_items(self.standing, "standing", without=[self.standing.membership]))
        return sizes

    # --- lives --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Begin a life in the network with what is on disk."""
        network, store = self._network, self.store
        life = self.life = SimLife(
            network=network,
            host_id=self.host_id,
            send=self._send,
            blame=self._blame,
            note=lambda peer, kind: self.conduct.note(peer, kind),
        )
        self.overlay = SimOverlay(life, unreachable=partial(self._server.report, self.host_id))
        self.roster, self.mesh = self.overlay.roster, self.overlay.mesh
        made, seen = store.last_stamps(self.host_id)
        self._clock = SimClock(network, error_ms=lambda: self.clock_error_ms, made=made, seen=seen, send=self._send)
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
            credit_of=lambda peer: self.conduct.machine.credit_of(peer),
        )
        self.conduct = SimConduct(
            life,
            shun=lambda peer, until: self.overlay.handle(mesh.Shun(peer, until)),
            report=partial(self._server.complain, self),
            credit_changed=self.files.set_credit,
            clock_errors_ms=self._clock.errors_ms,
        )
        self._intake = SimIntake(
            life, mesh=self.mesh, clock=self._clock, files=self.files, talk=self.talk, standing=self.standing
        )
        self._clock_timer.rearm()

    def _start_standing(self, life: SimLife) -> None:
        key, charter = self._settings.key, self._settings.charter
        if charter is not None and key is not None:
            self.standing = SimStanding(
                life,
                key,
                charter,
                self._statements,
                tell_server=partial(self._server.tell, self),
                changed=self._standing_changed,
                ready=lambda peer: self._intake.begin_talk(peer),
            )

    def _end(self) -> None:
        """End a life: nothing that was begun in it goes on."""
        self.life.is_over = True
        self.talk.end()
        self.files.end()
        self.conduct.end()
        self.overlay.end()
        self._clock_timer.stop()

    def _synced(self, msg_id: MsgId, is_durable: bool) -> None:
        if is_durable:
            self.acknowledged.add(msg_id)

    # --- what the network says ----------------------------------------------------------------------------------

    def may_accept(self, peer: DeviceId) -> bool:
        """Ask the mesh about members."""
        return (self.standing is None or self.standing.would_admit(peer)) and self.mesh.may_accept(peer)

    def link_up(self, peer: DeviceId, *, is_dialler: bool) -> None:
        """Tell the mesh, then all others."""
        self.overlay.handle(mesh.LinkUp(peer, is_dialler))
        self._intake.link_up(peer, is_dialler=is_dialler)
        self.files.overlay_changed()

    def link_down(self, peer: DeviceId) -> None:
        """Tell all others, then the mesh."""
        self._intake.link_down(peer)
        self.overlay.handle(mesh.LinkDown(peer))
        self.files.overlay_changed()

    def dial_failed(self, peer: DeviceId) -> None:
        """Tell the mesh."""
        self.overlay.handle(mesh.DialFailed(peer))

    def received(self, peer: DeviceId, frame: Any) -> None:
        """Give a frame to the machine that it is for, now or when it can be taken."""
        self._intake.received(peer, frame)

    def disk_has_room(self) -> None:
        """Take what was held back on the links."""
        self._intake.has_room()

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
        self.overlay.handle(mesh.RosterChanged(joined))
        self.overlay.want_holders(self.files.holders())
        self.files.overlay_changed()

    # --- links --------------------------------------------------------------------------------------------------

    def _send(self, peer: DeviceId, frame: Any) -> None:
        self._network.send(self.host_id, peer, frame)

    def _send_piece(self, peer: DeviceId, item: SimPiece, size_bytes: int, sent: Callable[[], None]) -> None:
        note = b"piece %d of %s" % (item.piece, item.file_id)
        self._network.send_bulk(self.host_id, peer, item, size_bytes=size_bytes, note=note, sent=sent)

    def _blame(self, effect: Misbehaved, *, closes_link: bool) -> None:
        self.misbehaviour.append(effect)
        if closes_link:
            self._network.close_link(self.host_id, effect.peer)
        self.conduct.note(effect.peer, kind_of(effect))

    # --- what its parts say -------------------------------------------------------------------------------------

    def message_stored(self, msg_id: MsgId, hops: int) -> None:
        """Note how a message came, and look whether it offers a file."""
        self.hops.setdefault(msg_id, hops)
        self.delivered_at.setdefault(msg_id, self._network.now)
        if (offer := sim_messages.offered(self.store.history[msg_id])) is not None:
            self.files.offer_heard(offer[0])
            self.overlay.want_holders(self.files.holders())

    def _file_completed(self, file_id: FileId) -> None:
        self.completed.setdefault(file_id, self._network.now)
        self.overlay.want_holders(self.files.holders())
