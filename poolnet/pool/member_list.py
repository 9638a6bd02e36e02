"""The members of a pool as this device sees them: by what name, whether they are online, and over what kind of link."""

from collections.abc import Callable, Mapping

import attrs
import trio

from poolnet.identity.membership import Membership
from poolnet.identity.statements import Role
from poolnet.ids import DeviceId
from poolnet.net.addresses import format_address
from poolnet.net.link import Link
from poolnet.protocol.conduct import PeerConduct
from poolnet.protocol.rings import Roster


@attrs.frozen(kw_only=True)
class MemberInfo:
    """A member of the pool, and the link to it if there is one. Rates are bytes a second, over the last seconds.

    `carrier` is what carries chunks: "tcp" or "quic". `conduct` is what this device saw it do against the rules, the
    last of it, as a word: "bad_signature", "bad_chunk", "broken_promise", "clock", "flood" or "protocol". Because of it
    there may be no link for another `shunned_s`.
    """

    node: DeviceId
    name: str
    role: str
    is_self: bool
    online: bool
    linked: bool
    address: str | None = None
    rtt_s: float | None = None
    datagram_size: int | None = None
    carrier: str | None = None
    rate_in: float = 0.0
    rate_out: float = 0.0
    conduct: str | None = None
    shunned_s: float | None = None


@attrs.frozen(kw_only=True)
class MemberList:
    """Looks at who is there, by all that is known now.

    Attributes:
        roster: who is online, as the sync server says.
        links: those that are up.
        conduct_of: returns what a member did, if anything.
    """

    self_id: DeviceId
    membership: Membership
    roster: Roster
    links: Mapping[DeviceId, Link]
    name_of: Callable[[DeviceId], str]
    conduct_of: Callable[[DeviceId], PeerConduct | None]

    def all(self) -> list[MemberInfo]:
        """Return all members, those online first, by name."""
        found = [self._info(device, member.role) for device, member in self.membership.members().items()]
        return sorted(found, key=lambda info: (not info.online, info.name.casefold(), info.node))

    def _info(self, device: DeviceId, role: Role) -> MemberInfo:
        link, is_self = self.links.get(device), device == self.self_id
        info = MemberInfo(
            node=device,
            name=self.name_of(device),
            role=role.name.lower(),
            is_self=is_self,
            online=is_self or device in self.roster or link is not None,
            linked=link is not None,
        )
        conduct = self.conduct_of(device)
        if conduct is not None:
            info = _with_conduct(info, conduct)
        return info if link is None else _with_link(info, link)


def _with_conduct(info: MemberInfo, conduct: PeerConduct) -> MemberInfo:
    until = conduct.shunned_until
    shunned_s = None if until is None else until - trio.current_time()
    return attrs.evolve(info, conduct=conduct.kind.word, shunned_s=shunned_s)


def _with_link(info: MemberInfo, link: Link) -> MemberInfo:
    traffic = link.statistics()
    return attrs.evolve(
        info,
        address=format_address(link.remote_address),
        rtt_s=link.rtt_s,
        datagram_size=link.datagram_size,
        carrier=link.carrier,
        rate_in=traffic.rate_in,
        rate_out=traffic.rate_out,
    )
