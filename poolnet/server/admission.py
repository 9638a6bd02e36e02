"""Who may attach to a pool: what a client shows, judged by the statements that the server has. Pure.

The server can refuse or hide, never admit: members judge by the same statements for themselves. What only the server
can judge is time: a Join that arrives after its invite has expired is refused whatever stamp it carries. So Joins that
a newcomer brings are held to the server's clock; those that members pass on have been seen in time by somebody.
"""

from collections.abc import Iterable

import attrs

from poolnet.errors import Refused as RefusedError
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Genesis, Join, RemoveMember, SetRole, Statement, encode_statement
from poolnet.ids import DeviceId
from poolnet.limits import MAX_REASON_CHARS
from poolnet.protocol.statement_exchange import pack_statements
from poolnet.server.events import CloseClient, SendFrame, ServerEffect
from poolnet.server.wanted import ClientId
from poolnet.wire.sync_frames import Refused

_SENTENCES = {
    "unknown_pool": "this server does not know that pool; ask for a new invite",
    "not_a_member": "this device is not a member of the pool; ask for an invite",
    "removed": "this device was removed from the pool",
    "invite_unknown": "this server does not know that invite; whoever made it must come online first",
    "invite_expired": "the invite has expired; ask for a new one",
    "invite_used_up": "the invite has been used as often as it allows; ask for a new one",
    "too_many": "too many connections or requests from this address; try again later",
    "misbehaved": "most neighbours of this device say that it breaks the rules of the protocol; try again later",
    "busy": "the server cannot take this on at the moment; try again later",
    "timeout": "nothing that could be judged was shown in time",
}


@attrs.frozen
class Judgement:
    """What of the shown statements belongs into the pool, and what is wrong with the client's own Join, if anything."""

    admitted: tuple[Statement, ...]
    code: str | None


def refusal(client: ClientId, code: str, message: str | None = None) -> list[ServerEffect]:
    """Return what tells a client no: a code for programs, a sentence for people (by default that of the code)."""
    text = _SENTENCES[code] if message is None else message[:MAX_REASON_CHARS]
    return [SendFrame(client, Refused(code=code, message=text)), CloseClient(client, code, text)]


def show_removal(client: ClientId, membership: Membership, device: DeviceId) -> list[ServerEffect]:
    """Return what tells a client by what its device was removed: no device takes a server's word for that.

    The removals, how their authors came in and who gave them the right; of other members nothing.
    """
    effective = membership.effective_statements()
    shown = [item for item in effective if isinstance(item.body, RemoveMember) and item.body.device == device]
    authors = dict.fromkeys(statement.author for statement in shown)
    roles = [(item.body.device, item) for item in effective if isinstance(item.body, SetRole)]
    while more := [item for device, item in roles if device in authors and item not in shown]:
        shown += more
        authors.update(dict.fromkeys(statement.author for statement in more))
    credentials = [encoded for author in authors for encoded in membership.credentials_of(author)]
    encoded = dict.fromkeys([*credentials, *map(encode_statement, shown)])
    return [SendFrame(client, frame) for frame in pack_statements(encoded)]


def admit_shown(membership: Membership, shown: Iterable[Statement], *, device: DeviceId, unix_ms: int) -> Judgement:
    """Add to `membership` what is in order of the statements that the client of `device` shows.

    That is: statements by members, and Joins through invites that are good now. Nothing else gets in, so that a
    stranger cannot fill a pool with junk.
    """
    admitted = []
    own_code = None
    for statement in sorted(shown, key=lambda item: item.key):
        is_own_join = statement.author == device and isinstance(statement.body, Join)
        if not is_own_join and not membership.missing((statement.statement_id,)):
            continue
        code = _objection(membership, statement, unix_ms)
        if code is None and membership.add(statement):
            admitted.append(statement)
        elif is_own_join:
            own_code = code
    return Judgement(tuple(admitted), own_code)


def _objection(membership: Membership, statement: Statement, unix_ms: int) -> str | None:
    """Return why a statement from a stranger is refused, or None."""
    match statement.body:
        case Genesis():
            return "unknown_pool"
        case Join():
            try:
                membership.check_join(statement, unix_ms)
            except RefusedError as refused:
                return refused.code
            return None
        case _:
            return None if membership.is_member(statement.author) else "not_a_member"
