"""Who is there, and to whom a simulated node is linked: roster and mesh, as poolnet/pool/link_keeper.py does it."""

from collections.abc import Callable, Iterable
from typing import assert_never

from poolnet.ids import DeviceId
from poolnet.protocol import mesh
from poolnet.protocol.rings import Roster
from poolnet.testing.sim_life import SimLife
from poolnet.testing.sim_timer import SimTimer


class SimOverlay:
    """The place of one node among the others, in one life.

    Args:
        life: where it is.
        unreachable: called with a member to whom no link comes up.
    """

    def __init__(self, life: SimLife, *, unreachable: Callable[[DeviceId], None]) -> None:
        self.roster = Roster()
        self.mesh = mesh.Mesh(life.host_id, self.roster, life.network.random_for(f"mesh of {life.host_id.hex()}"))
        self._life = life
        self._unreachable = unreachable
        self._timer = SimTimer(life.network, self.mesh.next_deadline, self._tick)

    def end(self) -> None:
        """Do nothing any more."""
        self._timer.stop()

    def handle(self, event: mesh.MeshEvent) -> None:
        """Tell the mesh what happened, and have the links that it wants."""
        self._perform(self.mesh.handle(event, self._life.now))
        self._timer.rearm()

    def want_holders(self, holders: Iterable[DeviceId]) -> None:
        """Have links to some of those who offer what is fetched, as poolnet/pool/placement.py does."""
        self.handle(mesh.WantDirect(frozenset(self.roster.nodes & set(holders))))

    def _tick(self) -> None:
        self._perform(self.mesh.tick(self._life.now))

    def _perform(self, effects: list[mesh.MeshEffect]) -> None:
        network, host_id = self._life.network, self._life.host_id
        for effect in effects:
            match effect:
                case mesh.Dial(peer):
                    network.dial(host_id, peer)
                case mesh.CloseLink(peer):
                    network.close_link(host_id, peer)
                case mesh.Unreachable(peer):
                    self._unreachable(peer)
                case _:
                    assert_never(effect)
