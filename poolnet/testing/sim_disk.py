"""A simulated disk: a log of records, of which a power cut leaves what was synced, and perhaps some more.

What is appended can be read at once. It survives a power cut (`crash`) if a sync that began later has ended well, or if
it is so old that the system has written it by itself; of what came after that, a random part is there, in order. A
record that is there by half is one that is missing: recovery drops it.

A disk can be full (`fill`), refuse to write or to sync (`fail`); then nothing happens to what is there. After a failed
sync nobody can know what is on the disk, so every further one fails until the store is opened again (`reopen`), as a
real store refuses, too (poolnet/storage/sqlite_worker.py).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from poolnet.errors import DiskFull, StoreError
from poolnet.testing.sim_network import SimNetwork

#: How long a sync takes, at least; up to twice that.
SYNC_S = 0.005
#: The system writes what is so old without being asked (Linux: dirty_expire_centisecs).
WRITE_BACK_S = 30.0


@attrs.frozen
class _Written:
    record: Any
    size_bytes: int
    at: float


class SimDisk:
    """The disk of one node.

    Args:
        network: whose time it lives in.
        name: decides, with the seed of the network, how long syncs take and what a power cut leaves.
    """

    def __init__(self, network: SimNetwork, name: str) -> None:
        #: How many records were lost in power cuts.
        self.lost = 0
        self.failed_writes = 0
        self.syncs = 0
        self._network = network
        self._rng = network.random_for(f"disk of {name}")
        self._log: list[_Written] = []
        self._durable = 0  # so many of the first records survive
        self._used_bytes = 0
        self._capacity_bytes = math.inf
        self._writes_to_fail = 0.0
        self._syncs_to_fail = 0.0
        self._has_failed_sync = False
        self._waiting: list[Callable[[bool], None]] = []
        self._is_syncing = False
        self._life = 0

    # --- what a store does --------------------------------------------------------------------------------------

    def append(self, record: Any, size_bytes: int) -> None:
        """Write a record at the end; it is not durable yet.

        Raises:
            DiskFull: there is no room; nothing was written.
            StoreError: the disk failed; nothing was written.
        """
        if self._writes_to_fail > 0:
            self._writes_to_fail -= 1
            self.failed_writes += 1
            raise StoreError("the simulated disk does not write (EIO)")
        if self._used_bytes + size_bytes > self._capacity_bytes:
            self.failed_writes += 1
            raise DiskFull("the simulated disk is full")
        self._log.append(_Written(record, size_bytes, self._network.now))
        self._used_bytes += size_bytes

    def sync(self, done: Callable[[bool], None]) -> None:
        """Make durable what was appended so far; call `done` when that is so (True) or cannot be known (False).

        It is never called if a power cut comes first. Syncs that are asked for meanwhile share the next one.
        """
        self._waiting.append(done)
        if not self._is_syncing:
            self._begin_sync()

    def check_sync(self) -> None:
        """Raise `StoreError` if no sync can succeed any more until `reopen`."""
        if self._has_failed_sync:
            raise StoreError("the simulated disk failed to sync; open the store again")

    def records(self) -> Sequence[Any]:
        """Return everything that is there, in the order in which it was written."""
        return [written.record for written in self._log]

    def reopen(self) -> None:
        """Begin another life of the store: syncs may succeed again."""
        self._has_failed_sync = False

    @property
    def used_bytes(self) -> int:
        """The size of all records."""
        return self._used_bytes

    # --- what happens to a disk ---------------------------------------------------------------------------------

    def crash(self) -> None:
        """Cut the power: what is not durable is lost, from some record on; syncs under way never end."""
        self._life += 1
        self._waiting.clear()
        self._is_syncing = False
        old = -math.inf if self._has_failed_sync else self._network.now - WRITE_BACK_S
        while self._durable < len(self._log) and self._log[self._durable].at <= old:
            self._durable += 1
        left = self._rng.randint(self._durable, len(self._log))
        if left < len(self._log):
            self.lost += len(self._log) - left
            del self._log[left:]
            self._used_bytes = sum(written.size_bytes for written in self._log)
        self._durable = left
        self.reopen()

    def fill(self, free_bytes: int = 0) -> None:
        """Leave room for `free_bytes` from now on."""
        self._capacity_bytes = self._used_bytes + free_bytes

    def free(self) -> None:
        """Make room: the disk is as good as endless."""
        self._capacity_bytes = math.inf

    def fail(self, *, writes: float = 0, syncs: float = 0) -> None:
        """Let the next so many writes fail, and so many syncs; `math.inf`: all until `mend`."""
        self._writes_to_fail, self._syncs_to_fail = writes, syncs

    def mend(self) -> None:
        """Let writes and syncs succeed again; a store that saw a sync fail does not believe it before `reopen`."""
        self._writes_to_fail = self._syncs_to_fail = 0

    # --- syncs --------------------------------------------------------------------------------------------------

    def _begin_sync(self) -> None:
        self._is_syncing = True
        told, self._waiting = self._waiting, []
        reached, life = len(self._log), self._life

        def end() -> None:
            if life == self._life:
                self._end_sync(reached, told)

        self._network.call_later(SYNC_S * (1 + self._rng.random()), end)

    def _end_sync(self, reached: int, told: list[Callable[[bool], None]]) -> None:
        self._is_syncing = False
        if self._syncs_to_fail > 0:
            self._syncs_to_fail -= 1
            self._has_failed_sync = True
        if not self._has_failed_sync:
            self.syncs += 1
            self._durable = max(self._durable, reached)
        is_durable = not self._has_failed_sync
        for done in told:
            done(is_durable)
        if self._waiting and not self._is_syncing:
            self._begin_sync()
