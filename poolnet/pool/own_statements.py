"""What this device states about pools: that it founds, joins or leaves one, and whom it invites."""

import secrets

import attrs

from poolnet.clock import Hlc, HybridClock, make_hlc
from poolnet.identity.invite_link import InviteLink
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership, removal_keep
from poolnet.identity.statements import Role, Statement, make_genesis, make_invite, make_join, make_removal
from poolnet.identity.user import SignedAddDevice

_GENESIS_NONCE_SIZE = 16


@attrs.frozen(kw_only=True)
class OwnStatements:
    """Makes and signs them; who makes one has to put it into the pool.

    Attributes:
        user: whose device it is, for those who see it join.
    """

    key: DeviceKey
    user: SignedAddDevice

    def genesis(self, name: str, *, unix_ms: int) -> Statement:
        """Found a pool of that name.

        Raises:
            TextTooLong: the name is empty or too long.
        """
        nonce = secrets.token_bytes(_GENESIS_NONCE_SIZE)
        return make_genesis(self.key, name=name, nonce=nonce, hlc=make_hlc(unix_ms))

    def join(self, link: InviteLink, *, unix_ms: int) -> Statement:
        """Become a member by an invite."""
        return make_join(self.key, link.invite_key(), pool_id=link.pool_id, user=self.user, hlc=make_hlc(unix_ms))

    def invite(
        self, membership: Membership, link: InviteLink, *, uses: int | None, expires_s: float, unix_ms: int
    ) -> Statement:
        """Let whoever has `link` become a member, `uses` devices at most (None: any number)."""
        return make_invite(
            self.key,
            pool_id=link.pool_id,
            invite_key=link.invite_key().public_key,
            role=Role.MEMBER,
            expires_unix_ms=unix_ms + int(expires_s * 1000),
            uses=uses,
            hlc=self._after_joining(membership, unix_ms, Hlc(0)),
        )

    def leaving(self, membership: Membership, *, last: Hlc, unix_ms: int) -> Statement:
        """Leave a pool for good.

        Args:
            last: the highest stamp in the history: what this device said after it left would not count.
        """
        hlc = self._after_joining(membership, unix_ms, last)
        keep = removal_keep(membership, self.key.device_id)
        return make_removal(self.key, pool_id=membership.pool_id, device=self.key.device_id, keep=keep, hlc=hlc)

    def _after_joining(self, membership: Membership, unix_ms: int, last: Hlc) -> Hlc:
        """Return a stamp above that by which this device came in, maybe by a wrong clock, and above `last`."""
        member = membership.members().get(self.key.device_id)
        joined = Hlc(0) if member is None else member.joined_hlc
        return HybridClock(last=max(last, joined)).tick(unix_ms)
