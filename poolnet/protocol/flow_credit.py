"""Credit: how much one side of a link may have under way that the other side has not consumed.

QUIC's own windows open by themselves, whether or not anybody reads, so they bound nothing. Here each side tells the
other, cumulatively, what its application has *consumed*; the sender holds back at a fixed limit. A lost or merged
report does no harm, because the next one says it all. Used for control bytes and for chunks alike.
"""

from poolnet.errors import ProtocolError


class SendCredit:
    """What we sent, and how much of it the other side says it has consumed.

    Args:
        limit: the most that may be sent and not yet acknowledged.
    """

    __slots__ = ("acknowledged", "limit", "sent")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sent = 0
        self.acknowledged = 0

    @property
    def under_way(self) -> int:
        """Sent and not yet acknowledged."""
        return self.sent - self.acknowledged

    def has_room(self, amount: int) -> bool:
        """Return whether `amount` more may be sent now."""
        return self.under_way + amount <= self.limit

    def take(self, amount: int) -> None:
        """Take note that `amount` is sent."""
        self.sent += amount

    def acknowledge(self, total: int) -> None:
        """Take the other side's word for everything that it has consumed so far.

        Raises:
            ProtocolError: more than was sent, or less than it said before.
        """
        if not self.acknowledged <= total <= self.sent:
            raise ProtocolError("credit for something that was never sent, or taken back")
        self.acknowledged = total


class ReceiveCredit:
    """What arrived, what the application has consumed, and how much of that the other side has been told.

    Args:
        limit: the other side's limit; going beyond it is a violation.
    """

    __slots__ = ("consumed", "limit", "received", "told")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.received = 0
        self.consumed = 0
        self.told = 0

    def arrive(self, amount: int) -> None:
        """Take note of `amount` received.

        Raises:
            ProtocolError: the other side went over its limit.
        """
        self.received += amount
        if self.received - self.told > self.limit:
            raise ProtocolError("more was sent than the credit allowed")

    def consume(self, amount: int) -> None:
        """Take note that the application is done with `amount` of it."""
        self.consumed += amount

    @property
    def untold(self) -> int:
        """Consumed, and not yet reported."""
        return self.consumed - self.told

    def should_tell(self, *, drained: bool) -> bool:
        """Return whether a report is worth sending: nothing is left to consume, or a quarter of the limit is free."""
        return self.untold > 0 and (drained or 4 * self.untold >= self.limit)

    def tell(self) -> int:
        """Return the total to report, and take it as told."""
        self.told = self.consumed
        return self.told
