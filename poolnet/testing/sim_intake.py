"""What comes to a simulated node over its links, on its way to the machine that it is for, or waiting for it.

While the disk takes nothing, links are not read, as real ones. And of messages nothing is taken from a neighbour that
has not got our statements yet, so that both know whom they are from.
"""

from collections import deque
from typing import Any

import attrs

from poolnet.ids import DeviceId
from poolnet.limits import MAX_QUEUED_FRAMES
from poolnet.protocol.mesh import Mesh
from poolnet.testing.sim_clock import SimClock
from poolnet.testing.sim_files import SimFiles, SimPiece
from poolnet.testing.sim_life import SimLife
from poolnet.testing.sim_standing import STATEMENT_FRAMES, SimStanding
from poolnet.testing.sim_talk import SimTalk
from poolnet.wire.link_frames import Ping
from poolnet.wire.swarm_frames import SWARM_FRAMES


@attrs.define(eq=False)
class _Incoming:
    """One link. `early` is what came of messages before we may talk; None: we do."""

    is_dialler: bool
    waiting: deque[Any] = attrs.Factory(deque)
    early: deque[Any] | None = attrs.Factory(deque)


class SimIntake:
    """All links of one node in one life, and what its machines hear of them.

    Args:
        life: where it is.
        mesh: says which links are meant to stay.
        clock: hears the time.
        files: hear of files.
        talk: hears of messages.
        standing: hears of statements; None where a pool has none.
    """

    def __init__(
        self,
        life: SimLife,
        *,
        mesh: Mesh,
        clock: SimClock,
        files: SimFiles,
        talk: SimTalk,
        standing: SimStanding | None,
    ) -> None:
        self._life = life
        self._mesh = mesh
        self._clock = clock
        self._files = files
        self._talk = talk
        self._standing = standing
        self._links: dict[DeviceId, _Incoming] = {}

    def sizes(self) -> dict[str, int]:
        """Return how many frames wait."""
        links = self._links.values()
        return {
            "held_back": sum(len(link.waiting) for link in links),
            "early": max((len(link.early) for link in links if link.early is not None), default=0),
        }

    # --- links --------------------------------------------------------------------------------------------------

    def link_up(self, peer: DeviceId, *, is_dialler: bool) -> None:
        """Tell the clock of a link, then messages, or statements first where a pool has any, then files."""
        self._links[peer] = _Incoming(is_dialler)
        self._clock.link_up(peer)
        if self._standing is None:
            self.begin_talk(peer)
        else:
            self._standing.link_up(peer)
            if not self._standing.membership.is_member(peer):
                self._life.network.close_link(self._life.host_id, peer)
        self._files.link_up(peer)

    def begin_talk(self, peer: DeviceId) -> None:
        """Talk with a neighbour that knows our statements, if it is one and we do not yet."""
        link = self._links.get(peer)
        if link is None or link.early is None:
            return
        early, link.early = link.early, None
        self._talk.link_up(peer, is_dialler=link.is_dialler, is_steady=self._mesh.is_steady(peer))
        for frame in early:
            self._talk.received(peer, frame)

    def link_down(self, peer: DeviceId) -> None:
        """Tell everyone that a link is gone, and forget what waits."""
        link = self._links.pop(peer, None)
        self._clock.link_down(peer)
        self._files.link_down(peer)
        if self._standing is not None:
            self._standing.link_down(peer)
        if link is None or link.early is None:
            self._talk.link_down(peer)

    # --- frames -------------------------------------------------------------------------------------------------

    def received(self, peer: DeviceId, frame: Any) -> None:
        """Give a frame to the machine that it is for; while the disk takes nothing, it waits, as its link does."""
        link = self._links.get(peer)
        if isinstance(frame, SimPiece):
            self._files.received(peer, frame)
        elif link is None or not (link.waiting or self._talk.is_full):
            self._take(peer, link, frame)
        else:
            self._keep(peer, link.waiting, frame)

    def has_room(self) -> None:
        """Take what was held back while the disk took nothing, as far as it takes it now."""
        for peer, link in list(self._links.items()):
            while link.waiting and not self._talk.is_full and self._links.get(peer) is link:
                self._take(peer, link, link.waiting.popleft())

    def _take(self, peer: DeviceId, link: _Incoming | None, frame: Any) -> None:
        if isinstance(frame, Ping):
            self._clock.received(peer, frame)
            self._talk.clock_changed()
        elif isinstance(frame, SWARM_FRAMES):
            self._files.received(peer, frame)
        elif isinstance(frame, STATEMENT_FRAMES):
            if self._standing is not None:
                self._standing.received(peer, frame)
        elif link is not None and link.early is not None:
            self._keep(peer, link.early, frame)
        else:
            self._talk.received(peer, frame)

    def _keep(self, peer: DeviceId, queue: deque[Any], frame: Any) -> None:
        """Let a frame wait; the other side closes a link on which nothing is taken for too long."""
        queue.append(frame)
        if len(queue) > MAX_QUEUED_FRAMES:
            self._life.network.reset_link(self._life.host_id, peer)
