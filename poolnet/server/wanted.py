"""Statements that a pool lacks: who has them, and whom to ask for which. Pure.

After a server has lost its store every member offers the whole pool at once. Each statement is asked of one client at a
time, a bounded number from each client; when a client goes, what it was asked for is asked of the next.
"""

from collections.abc import Iterable
from itertools import islice
from typing import NewType

from poolnet.ids import StatementId
from poolnet.limits import MAX_ASKED_STATEMENTS

#: A link of one node to the server; never used twice.
ClientId = NewType("ClientId", int)

#: Clients remembered as having one statement; if all of them go, it is offered again by whoever has it.
_MAX_HOLDERS = 3


class WantedStatements:
    """The statements that one pool lacks. Costs O(1) a statement and holder."""

    def __init__(self) -> None:
        self._holders: dict[StatementId, list[ClientId]] = {}
        self._offers: dict[ClientId, dict[StatementId, None]] = {}
        self._asked: dict[StatementId, ClientId] = {}
        self._unanswered: dict[ClientId, int] = {}

    def offer(self, client: ClientId, ids: Iterable[StatementId], *, room: int) -> None:
        """Note that `client` has these statements, which the pool lacks; at most `room` are wanted in all."""
        for statement_id in ids:
            holders = self._holders.get(statement_id)
            if holders is None:
                if len(self._holders) >= room:
                    return
                holders = self._holders[statement_id] = []
            if client not in holders and len(holders) < _MAX_HOLDERS:
                holders.append(client)
                self._offers.setdefault(client, {})[statement_id] = None

    def ask(self) -> list[tuple[ClientId, tuple[StatementId, ...]]]:
        """Return what to ask now of whom: of each client only when it has answered everything before."""
        questions = []
        for client, offered in self._offers.items():
            if self._unanswered.get(client):
                continue
            free = (statement_id for statement_id in offered if statement_id not in self._asked)
            ids = tuple(islice(free, MAX_ASKED_STATEMENTS))
            if ids:
                self._asked.update(dict.fromkeys(ids, client))
                self._unanswered[client] = len(ids)
                questions.append((client, ids))
        return questions

    def arrived(self, statement_id: StatementId) -> None:
        """Note that a statement is here (or was of no use) and is wanted no more."""
        for holder in self._holders.pop(statement_id, ()):
            self._drop_offer(holder, statement_id)
        asked = self._asked.pop(statement_id, None)
        if asked is not None:
            self._answered(asked)

    def gone(self, client: ClientId) -> None:
        """Forget a client."""
        self._unanswered.pop(client, None)
        for statement_id in self._offers.pop(client, ()):
            holders = self._holders[statement_id]
            holders.remove(client)
            if not holders:
                del self._holders[statement_id]
            if self._asked.get(statement_id) == client:
                del self._asked[statement_id]

    def __len__(self) -> int:
        return len(self._holders)

    def _drop_offer(self, client: ClientId, statement_id: StatementId) -> None:
        offered = self._offers[client]
        del offered[statement_id]
        if not offered:
            del self._offers[client]

    def _answered(self, client: ClientId) -> None:
        left = self._unanswered[client] - 1
        if left:
            self._unanswered[client] = left
        else:
            del self._unanswered[client]
