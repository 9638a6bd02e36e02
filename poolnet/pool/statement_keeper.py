"""The pool's statements on this device: add what comes, store it, pass it on ahead of what depends on it."""

from collections.abc import Callable, Mapping, Sequence

from poolnet.errors import LinkClosed
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Statement, encode_statement
from poolnet.ids import DeviceId
from poolnet.net.link import Link
from poolnet.pool.server_keeper import ServerKeeper
from poolnet.protocol.statement_exchange import add_statements_untrusted, pack_statements
from poolnet.wire.framing import Frame


class StatementKeeper:
    """Adds statements to the membership and tells everyone who should know.

    Args:
        links: the links of the pool now; read, never changed.
        changed: called after new statements were added, to store them.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        server: ServerKeeper,
        links: Mapping[DeviceId, Link],
        changed: Callable[[], None],
    ) -> None:
        self._membership = membership
        self._server = server
        self._links = links
        self._changed = changed

    def made(self, statement: Statement) -> None:
        """Take a statement that this device made."""
        self._membership.add(statement)
        self._server.statements_made([encode_statement(statement)])
        self._pass_on([statement], source=None)

    def from_server(self, encoded: Sequence[bytes]) -> None:
        """Take statements that the server sent.

        Raises:
            WireError: one of them is malformed or not signed.
        """
        self._pass_on(self._membership.news(add_statements_untrusted(self._membership, encoded)), source=None)

    def from_link(self, encoded: Sequence[bytes], link: Link) -> None:
        """Take the credentials that a peer has shown.

        Raises:
            WireError: one of them is malformed or not signed.
        """
        self.exchanged(add_statements_untrusted(self._membership, encoded), link)

    def exchanged(self, added: Sequence[Statement], link: Link) -> None:
        """Take statements that came over `link` and are in the membership already."""
        if news := self._membership.news(added):
            self._server.statements_learned([statement.statement_id for statement in news])
            self._pass_on(news, source=link)

    def _pass_on(self, statements: Sequence[Statement], *, source: Link | None) -> None:
        """Store, push to every other link, and drop the links of members that were removed."""
        if not statements:
            return
        self._changed()
        frames = pack_statements([encode_statement(statement) for statement in statements])
        for link in list(self._links.values()):
            if not self._membership.is_member(link.peer):
                link.close_now(code="removed", reason="that device was removed from the pool")
            elif link is not source:
                _post_all(link, frames)


def _post_all(link: Link, frames: Sequence[Frame]) -> None:
    try:
        for frame in frames:
            link.post_frame(frame)
    except LinkClosed:
        return  # its own task notices and reports it
