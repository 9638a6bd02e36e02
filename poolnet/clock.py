"""Hybrid logical clocks: one order of messages for everyone, whatever the clocks of the devices say.

A timestamp is a 64-bit integer: 48 bits of milliseconds since 1970 and 16 bits of counter. Sending takes a stamp above
every stamp seen so far; receiving moves the clock up to what was received. So an answer is always ordered after what it
answers, and stamps stay close to real time as long as most clocks do.

Source: Kulkarni, Demirbas, Madeppa, Avva, Leone, "Logical Physical Clocks" (2014).
"""

from collections.abc import Iterable
from typing import NewType

from poolnet.limits import MAX_CLOCK_AHEAD_S, MAX_UNCONFIRMED_STEP_S

Hlc = NewType("Hlc", int)

_COUNTER_BITS = 16
MAX_HLC = Hlc(2**63 - 1)  # SQLite integers are signed
#: What may be the time at all: whoever says otherwise has no clock, or lies.
EARLIEST_UNIX_MS = 1_577_836_800_000  # 2020
LATEST_UNIX_MS = 4_102_444_800_000  # 2100
#: So far ahead a stamp may be that everybody believes, also those whose time is two seconds behind ours.
_BELIEVED_AHEAD = int((MAX_CLOCK_AHEAD_S - 2.0) * 1000) << _COUNTER_BITS


def make_hlc(unix_ms: int, counter: int = 0) -> Hlc:
    """Return the stamp of `unix_ms` milliseconds and `counter`."""
    return Hlc((unix_ms << _COUNTER_BITS) | counter)


def hlc_ms(hlc: Hlc) -> int:
    """Return the milliseconds since 1970 in a stamp."""
    return hlc >> _COUNTER_BITS


def agreed_offset_ms(
    offsets_ms: Iterable[int], *, unix_ms: int, server_offset_ms: int | None = None, seen_ms: int = 0
) -> int:
    """Return by how much to correct a clock that shows `unix_ms`, from how far others' clocks are ahead of it.

    The median of all, this one included, so that it takes more than one liar, and devices that know each other come to
    the same time. Of two in the middle that nearer to the sync server's time (`server_offset_ms`, one of the others);
    without a server the earlier, unless what was seen of others, up to `seen_ms`, is later than that by more than they
    would believe. For what is stamped too early does no harm (it still comes after all that was seen), and what is
    stamped too late is held back by everybody for as long. If the two are further apart than `MAX_UNCONFIRMED_STEP_S`,
    the one that changes less. Who claims a time before 2020 or after 2100 is not asked. Nobody to ask: 0.
    """
    others = [*offsets_ms] if server_offset_ms is None else [*offsets_ms, server_offset_ms]
    voices = sorted(offset for offset in (0, *others) if _is_possible(unix_ms + offset))
    if not others or not voices:
        return 0
    low, high = voices[(len(voices) - 1) // 2], voices[len(voices) // 2]
    if server_offset_ms is not None and _is_possible(unix_ms + server_offset_ms):
        return min(low, high, key=lambda offset: abs(offset - server_offset_ms))
    if high - low > MAX_UNCONFIRMED_STEP_S * 1000:
        return min(low, high, key=abs)
    return low if seen_ms <= unix_ms + low + MAX_CLOCK_AHEAD_S * 1000 else high


def _is_possible(unix_ms: int) -> bool:
    return EARLIEST_UNIX_MS <= unix_ms < LATEST_UNIX_MS


class HybridClock:
    """The stamps of one device in one pool.

    Physical time is passed in; `offset_ms` is what others' clocks say that ours is behind (set by whoever measures it).
    The highest stamps that were made here and that were seen of others are kept apart: our own, made by a wrong clock,
    do not count until others believe them, others' always.
    """

    def __init__(self, *, last: Hlc = Hlc(0)) -> None:
        self._made = last
        self._too_early = Hlc(0)  # the highest that we made by a wrong clock
        self._seen = Hlc(0)  # of others, and what we made right above it
        self._is_doubted = False  # whether others would not believe what we saw
        self.offset_ms = 0

    def now_ms(self, unix_ms: int) -> int:
        """Return corrected physical time in milliseconds."""
        return unix_ms + self.offset_ms

    @property
    def seen_ms(self) -> int:
        """The milliseconds of the highest stamp that was seen of others."""
        return hlc_ms(self._seen)

    def correct(self, offset_ms: int, unix_ms: int) -> None:
        """Follow others' clocks, when ours shows `unix_ms`.

        Stamps that we made by a wrong clock, too far ahead for the others, do not count until they are so no more: all
        that came after them would be held back as well. What was seen of others while we had a wrong time, and is now
        further ahead than they would believe, is followed as far as they do.
        """
        self.offset_ms = offset_ms
        self._is_doubted = self.ahead_s(self._seen, unix_ms) > MAX_CLOCK_AHEAD_S
        if self.ahead_s(self._made, unix_ms) > MAX_CLOCK_AHEAD_S:
            self._too_early = max(self._too_early, self._made)
            self._made = max(Hlc(0), make_hlc(self.now_ms(unix_ms)))

    def tick(self, unix_ms: int) -> Hlc:
        """Return a stamp for something that happens now, above every stamp made or seen before; `MAX_HLC` at most."""
        now = make_hlc(self.now_ms(unix_ms))
        if self._too_early <= now + _BELIEVED_AHEAD:  # by now it is in everybody's history
            self._made = max(self._made, self._too_early)
        seen = min(self._seen, now + _BELIEVED_AHEAD) if self._is_doubted else self._seen
        stamp = Hlc(min(MAX_HLC, max(now, self._made + 1, seen + 1)))
        if stamp == self._seen + 1:
            self._seen = stamp
        else:
            self._made = stamp
        return stamp

    def resume(self, hlc: Hlc) -> None:
        """Take note of a stamp that this device made in an earlier session."""
        self._made = max(self._made, hlc)

    def observe(self, hlc: Hlc) -> None:
        """Take note of a stamp received from another device, so that what we make next comes after it.

        Only of one that is not far ahead (`ahead_s`): nobody else may push this clock towards `MAX_HLC`.
        """
        self._seen = max(self._seen, hlc)

    def ahead_s(self, hlc: Hlc, unix_ms: int) -> float:
        """Return by how many seconds `hlc` is ahead of corrected time (negative: behind)."""
        return (hlc_ms(hlc) - self.now_ms(unix_ms)) / 1000
