"""A small pool for tests: members have names, time moves on by itself."""

from poolnet.clock import Hlc, make_hlc
from poolnet.errors import Refused
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership, removal_keep
from poolnet.identity.statements import (
    Role,
    Statement,
    make_genesis,
    make_invite,
    make_join,
    make_removal,
    make_role,
)
from poolnet.identity.user import found_user
from poolnet.ids import StatementId

NAMES = ["ann", "bob", "cid", "dee", "eve"]
NEVER = 2**40


def key_of(name: str) -> DeviceKey:
    return DeviceKey.from_seed(name.encode().ljust(32, b"."))


class Pool:
    """A pool whose members are called by their names; time is in milliseconds and moves on by itself."""

    def __init__(self) -> None:
        self.now_ms = 1000
        self.genesis = make_genesis(key_of("founder"), name="our pool", nonce=bytes(16), hlc=make_hlc(self.now_ms))
        self.pool_id = self.genesis.pool_id
        self.membership = Membership(self.pool_id)
        self.membership.add(self.genesis)

    def hlc(self, at: int | None = None) -> Hlc:
        self.now_ms += 10
        return make_hlc(self.now_ms if at is None else at)

    def invite(
        self,
        author: str,
        invite: str,
        *,
        role: Role = Role.MEMBER,
        uses: int | None = None,
        expires: int = NEVER,
        at: int | None = None,
    ) -> Statement:
        return self.add(
            make_invite(
                key_of(author),
                pool_id=self.pool_id,
                invite_key=key_of(invite).public_key,
                role=role,
                expires_unix_ms=expires,
                uses=uses,
                hlc=self.hlc(at),
            )
        )

    def join_statement(self, device: str, invite: str, *, at: int | None = None) -> Statement:
        key = key_of(device)
        user = found_user(key, unix_ms=1, device_name=device)
        return make_join(key, key_of(invite), pool_id=self.pool_id, user=user, hlc=self.hlc(at))

    def join(self, device: str, invite: str, *, at: int | None = None) -> Statement:
        return self.add(self.join_statement(device, invite, at=at))

    def bring(self, device: str, inviter: str = "founder", *, role: Role = Role.MEMBER) -> Statement:
        """Invite and join in one go; return the invite."""
        invite = self.invite(inviter, f"invite of {device}", role=role, uses=1)
        self.join(device, f"invite of {device}")
        return invite

    def set_role(
        self,
        author: str,
        device: str,
        role: Role,
        *,
        keep: tuple[StatementId, ...] | None = None,
        at: int | None = None,
    ) -> Statement:
        if keep is None:
            keep = removal_keep(self.membership, key_of(device).device_id)
        return self.add(
            make_role(
                key_of(author),
                pool_id=self.pool_id,
                device=key_of(device).device_id,
                role=role,
                keep=keep,
                hlc=self.hlc(at),
            )
        )

    def remove(
        self, author: str, device: str, *, keep: tuple[StatementId, ...] | None = None, at: int | None = None
    ) -> Statement:
        if keep is None:
            keep = removal_keep(self.membership, key_of(device).device_id)
        return self.add(
            make_removal(
                key_of(author), pool_id=self.pool_id, device=key_of(device).device_id, keep=keep, hlc=self.hlc(at)
            )
        )

    def add(self, statement: Statement) -> Statement:
        assert self.membership.add(statement)
        return statement

    def names(self) -> set[str]:
        """Who is in, by name; admins with a star each rank."""
        known = {key_of(name).device_id: name for name in ["founder", *NAMES]}
        return {
            known[member.device_id] + ("*" * (member.rank + 1) if member.role == Role.ADMIN else "")
            for member in self.membership.members().values()
        }

    def refusal(self, join: Statement, *, unix_ms: int = 0) -> str | None:
        """The code with which a Join is refused now."""
        try:
            self.membership.check_join(join, unix_ms)
        except Refused as exc:
            return exc.code
        return None
