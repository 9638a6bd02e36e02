"""What the parts of a simulated node share during one life: where they are, and how they speak and complain."""

from collections.abc import Callable
from typing import Any

import attrs

from poolnet.ids import DeviceId
from poolnet.protocol import agreement, gossip
from poolnet.protocol import swarm_events as sw
from poolnet.protocol.conduct import Kind
from poolnet.testing.sim_network import SimNetwork

#: Why a peer is blamed, as the machine says that found it.
Misbehaved = gossip.Misbehaved | agreement.Misbehaved | sw.Misbehaved


@attrs.define(eq=False, kw_only=True)
class SimLife:
    """One life of a node, from `join` to `leave` or `crash`.

    Attributes:
        network: where it lives.
        host_id: its address.
        send: sends a frame to a neighbour.
        blame: takes note that a peer misbehaved; closes its link if that is what a real node does.
        note: takes note of what a peer did that is no fault, or not for sure.
        is_over: nothing that was begun in this life may go on.
    """

    network: SimNetwork
    host_id: DeviceId
    send: Callable[[DeviceId, Any], None]
    blame: Callable[..., None]
    note: Callable[[DeviceId, Kind], None]
    is_over: bool = False

    @property
    def now(self) -> float:
        """The virtual time."""
        return self.network.now
