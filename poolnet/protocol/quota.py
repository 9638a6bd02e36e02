"""How much of one author is taken over gossip: so nobody's flood keeps what others say from being heard.

Each author has a bucket of tokens, and a message costs one for each KiB begun. What goes beyond is not taken as it
comes, and not lost either: comparing histories (agreement.py) brings it later, many at a time. The quota is that of the
author, not of the forwarder: whoever passes a flood on does what it should.

A message is paid for only once its signature is verified, so nobody uses up what is another's; and of an author that
has nothing left, nothing is verified. But what somebody said once can be said again by anybody, and whoever restarts
does not know at once that it has it. So all messages that are stamped long ago, which are old ones or by a wrong clock,
have one bucket together: they cost their authors nothing. Pure.
"""

from collections import OrderedDict

from poolnet.ids import DeviceId
from poolnet.limits import AUTHOR_BURST, AUTHOR_RATE, KIB, MAX_AUTHORS_LIMITED, OLD_BURST, OLD_RATE
from poolnet.protocol.token_bucket import TokenBucket


class AuthorQuota:
    """A bucket for each author of late, and one; the `MAX_AUTHORS_LIMITED` that spoke last are remembered.

    Attributes:
        deferred: how often an author had nothing left.
    """

    def __init__(self) -> None:
        self.deferred = 0
        self._buckets: OrderedDict[DeviceId, TokenBucket] = OrderedDict()  # who spoke last is last
        self._old: TokenBucket | None = None

    def has_some(self, author: DeviceId, now: float, *, is_old: bool = False) -> bool:
        """Return whether a message of `author` may be taken now; if not, that is counted.

        `is_old`: it is stamped more than `OLD_AFTER_S` ago.
        """
        bucket = self._old if is_old else self._buckets.get(author)
        if bucket is None or bucket.has_some(now):
            return True
        self.deferred += 1
        return False

    def spend(self, author: DeviceId, size_bytes: int, now: float, *, is_old: bool = False) -> None:
        """Take note that a message of `author` was taken; a large one may leave a debt."""
        bucket = self._bucket_of_old(now) if is_old else self._bucket_of(author, now)
        bucket.spend(-(-size_bytes // KIB), now)

    def _bucket_of(self, author: DeviceId, now: float) -> TokenBucket:
        bucket = self._buckets.get(author)
        if bucket is None:
            bucket = self._buckets[author] = TokenBucket(burst=AUTHOR_BURST, rate=AUTHOR_RATE, now=now)
            if len(self._buckets) > MAX_AUTHORS_LIMITED:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(author)
        return bucket

    def _bucket_of_old(self, now: float) -> TokenBucket:
        if self._old is None:
            self._old = TokenBucket(burst=OLD_BURST, rate=OLD_RATE, now=now)
        return self._old

    def __len__(self) -> int:
        return len(self._buckets)
