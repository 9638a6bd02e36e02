"""What the statements of a pool mean together: the values that evaluation.py makes and membership.py answers from."""

from collections.abc import Mapping, Sequence

import attrs

from poolnet.clock import Hlc
from poolnet.identity.statements import Role
from poolnet.identity.user import SignedAddDevice
from poolnet.ids import DeviceId, PublicKey, StatementId

#: Rank of those who are no admins: below every admin.
MEMBER_RANK = 2**32


@attrs.frozen(kw_only=True)
class Member:
    """A device that is in the pool. `user` is None for the founder, whose Genesis names none."""

    public_key: PublicKey
    device_id: DeviceId
    role: Role
    rank: int
    user: SignedAddDevice | None
    joined_hlc: Hlc


@attrs.frozen(kw_only=True)
class Admission:
    """How a device came in: its Join, the Invite, who invited, and with which rank."""

    join_id: StatementId
    invite_id: StatementId
    inviter: DeviceId
    rank: int


@attrs.frozen(kw_only=True)
class InviteState:
    """What an invite is still good for. Not `valid`: its author was removed or lost the right to give that role.

    No uses are left either when its author's branch is full (evaluation.py).
    """

    invite_id: StatementId
    author: DeviceId
    role: Role
    expires_unix_ms: int
    uses_left: int | None
    valid: bool


@attrs.frozen(kw_only=True)
class PoolState:
    """What the statements of a pool mean."""

    name: str
    members: Mapping[DeviceId, Member]
    #: Removed for ever, and when.
    removed: Mapping[DeviceId, Hlc]
    #: Not members because they left, and when.
    left: Mapping[DeviceId, Hlc]
    #: Everyone who ever came in: members, and those who left or were removed.
    entered: frozenset[DeviceId]
    #: Of everyone who ever was an admin and was not removed: from when on it was one (True) or was none, in order.
    admin_times: Mapping[DeviceId, Sequence[tuple[Hlc, bool]]]
    #: How they came in, but for the founder.
    admissions: Mapping[DeviceId, Admission]
    invites: Mapping[PublicKey, Sequence[InviteState]]
    #: Statements that have an effect.
    effective: frozenset[StatementId]
    #: Statements without which something else would be true: those, what sanctions were judged by, and how those came
    #: in whom sanctions leave in although who invited them falls.
    relevant: frozenset[StatementId]
