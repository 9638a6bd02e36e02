"""Staying attached to one of a pool's sync servers: dial, attach, follow, and try again when it is gone.

Drives the pure `Attachment` machine. The pool works on while no server is there; retries are jittered and back off, so
that a restarted server is not met by everyone at once. No server's word ends that: whom one refuses asks the next.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, assert_never, cast, get_args

import trio

from poolnet.errors import LinkClosed, PoolnetError, ProtocolError, Refused, Unreachable, WireError
from poolnet.identity.invite_link import ServerAddress
from poolnet.identity.membership import Membership
from poolnet.ids import DeviceId, StatementId
from poolnet.limits import MIN_BACKOFF_S, REATTACH_GRACE_S
from poolnet.net.endpoint import Endpoint
from poolnet.net.link import Link
from poolnet.protocol import attachment
from poolnet.protocol.attachment import Attachment
from poolnet.protocol.conduct import Kind
from poolnet.protocol.randomness import RandomSource
from poolnet.wire.framing import Frame
from poolnet.wire.link_frames import Purpose
from poolnet.wire.sync_frames import Address, RosterEntry

logger = logging.getLogger(__name__)

#: The last frames to a server on leaving: long enough for one round trip, short enough not to be noticed.
_GOODBYE_S = 0.5
#: A server that answers at all has stored what it was sent long before this.
_FLUSH_S = 3.0
#: A restarted server keeps our place for `REATTACH_GRACE_S`: two tries must fit, jitter and handshake included.
_MAX_BACKOFF_S = REATTACH_GRACE_S / 4


class ServerListener(Protocol):
    """What the pool does with what the server says."""

    def statements_received(self, encoded: Sequence[bytes]) -> None:
        """Statements from the server; raises WireError if one is malformed."""

    def roster_reset(self, epoch: int, entries: Sequence[RosterEntry]) -> None:
        """The whole roster."""

    def roster_joined(self, epoch: int, entry: RosterEntry) -> None:
        """A node came, or moved on the rings."""

    def roster_left(self, epoch: int, node: DeviceId) -> None:
        """A node left."""

    def observed(self, address: Address, unix_ms: int) -> None:
        """Where the server sees this node, and its time."""

    def signal_received(self, sender: DeviceId, body: bytes) -> None:
        """A signal that the server passed on."""

    def server_attached(self, server: ServerAddress) -> None:
        """The roster is complete and will be kept up to date."""

    def server_lost(self, server: ServerAddress, reason: str) -> None:
        """The server is gone, or could not be reached for the first time."""


class ServerKeeper:
    """Attachment of one pool to one of its servers.

    Args:
        servers: where the servers are, tried in turn.
        credentials: a newcomer's Join, which only the server can judge.
        listener: told everything that the server says.
    """

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        membership: Membership,
        self_id: DeviceId,
        servers: Sequence[ServerAddress],
        credentials: tuple[bytes, ...],
        rng: RandomSource,
        listener: ServerListener,
    ) -> None:
        self._endpoint = endpoint
        self._membership = membership
        self._self_id = self_id
        self._servers = list(servers)
        self._rng = rng
        self._listener = listener
        self._machine = Attachment(membership, self_id, credentials=credentials)
        self._link: Link | None = None
        self._server = self._servers[0]
        self._changed = trio.Condition()
        #: Why each server failed the last time; none of them since one has let us in.
        self._errors: dict[ServerAddress, PoolnetError] = {}

    @property
    def is_attached(self) -> bool:
        """Whether a server holds this node in its roster."""
        return self._machine.is_attached

    @property
    def clock_offset_ms(self) -> int | None:
        """By how many milliseconds the clock of the server is ahead of ours; None if it was not asked yet."""
        return None if self._link is None else self._link.clock_offset_ms

    async def wait_attached(self, timeout_s: float) -> None:
        """Wait until a server has let this node in.

        Raises:
            Refused: a server said no for good, and none of the others has let us in.
            Unreachable: no server answered in time.
        """
        with trio.move_on_after(timeout_s):
            async with self._changed:
                while not self.is_attached:
                    if refusal := self._refusal():
                        raise refusal
                    await self._changed.wait()
            return
        reason = f" ({error})" if (error := next(reversed(self._errors.values()), None)) else ""
        places = ", ".join(f"{server.host}:{server.port}" for server in self._servers)
        raise Unreachable(
            f"no sync server answered at {places}{reason}; check that it runs and that UDP reaches it, then try again"
        )

    def _refusal(self) -> Refused | None:
        """Return what one of the servers said for good, once all were asked in vain."""
        refusals = (error for error in self._errors.values() if isinstance(error, Refused))
        return next(refusals, None) if self._errors.keys() >= set(self._servers) else None

    async def run(self) -> None:
        """Attach and stay attached until cancelled."""
        failures = 0
        while True:
            for server in self._servers:
                self._server = server
                failures = 0 if await self._attend(server) else failures + 1
                await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        backoff_s = min(_MAX_BACKOFF_S, MIN_BACKOFF_S * 2 ** min(failures, 10))
        await trio.sleep(backoff_s * (0.5 + self._rng.random()))

    async def _attend(self, server: ServerAddress) -> bool:
        """Attach to one server and follow it until it is lost; return whether it had let us in."""
        was_attached = False
        try:
            link = await self._dial(server)
            try:
                self._link = link
                await self._follow(link)
            finally:
                was_attached = self.is_attached
                self._link = None
                self._perform(attachment.Disconnected())
                link.close_now(code="done", reason="")
        except (Refused, Unreachable, ProtocolError, LinkClosed, WireError) as exc:
            logger.info("sync server %s:%s: %s", server.host, server.port, exc)
            await self._failed(server, exc)
            self._listener.server_lost(server, _reason(exc))
        return was_attached

    async def _dial(self, server: ServerAddress) -> Link:
        return await self._endpoint.dial(
            (server.host, server.port),
            peer_key=server.key,
            hello_purpose=Purpose.SYNC,
            pool_id=self._membership.pool_id,
            credentials=(),
        )

    async def _follow(self, link: Link) -> None:
        self._perform(attachment.Connected())
        while True:
            deadline = self._machine.next_deadline()
            with trio.move_on_at(float("inf") if deadline is None else deadline) as waiting:
                frame = _from_server(await link.receive_frame())
            was_attached = self.is_attached
            if waiting.cancelled_caught:
                effects = self._machine.tick(trio.current_time())
                self._apply(effects)
            else:
                self._perform(attachment.Received(frame))
            if self.is_attached and not was_attached:
                await self._attached()

    async def _attached(self) -> None:
        self._errors.clear()
        async with self._changed:
            self._changed.notify_all()
        self._listener.server_attached(self._server)

    async def _failed(self, server: ServerAddress, error: PoolnetError) -> None:
        self._errors.pop(server, None)  # the latest comes last
        self._errors[server] = error
        async with self._changed:
            self._changed.notify_all()

    async def leave(self) -> None:
        """Tell the server that this node goes offline now; waits half a second at most."""
        link = self._link
        if link is None:
            return
        with trio.move_on_after(_GOODBYE_S, shield=True):
            try:
                self._perform(attachment.Leaving())
                await link.flushed()
            except LinkClosed:
                return

    async def flushed(self) -> None:
        """Wait until the server has handled, and stored, all that it was told.

        Returns all the same after `_FLUSH_S`: a server that is away is told with the next attachment.
        """
        with trio.move_on_after(_FLUSH_S):
            async with self._changed:
                while not self.is_attached:
                    await self._changed.wait()
            if self._link is not None:
                with suppress(LinkClosed):
                    await self._link.flushed()

    def signal(self, to: DeviceId, body: bytes) -> bool:
        """Pass a signal on through the server; return False if there is none."""
        if not self.is_attached:
            return False
        self._perform(attachment.Signal(to, body))
        return True

    def statements_made(self, encoded: Sequence[bytes]) -> None:
        """Give the server statements that this device made."""
        self._perform(attachment.StatementsMade(tuple(encoded)))

    def statements_learned(self, ids: Sequence[StatementId]) -> None:
        """Let the server ask for statements that came from other members."""
        self._perform(attachment.StatementsLearned(tuple(ids)))

    def cannot_reach(self, node: DeviceId) -> None:
        """Report that no link to a node comes up."""
        self._perform(attachment.CannotReach(node))

    def misbehaved(self, node: DeviceId, kind: Kind) -> bool:
        """Tell the server what a node did, last of several things; return False if there is none now."""
        if not self.is_attached:
            return False
        self._perform(attachment.Misconduct(node, kind))
        return True

    def roster_lost(self) -> None:
        """Ask for the whole roster again."""
        self._perform(attachment.RosterLost())

    def _perform(self, event: attachment.AttachmentEvent) -> None:
        self._apply(self._machine.handle(event, trio.current_time()))

    def _apply(self, effects: Sequence[attachment.AttachmentEffect]) -> None:
        listener = self._listener
        for effect in effects:
            match effect:
                case attachment.SendFrame(frame):
                    self._post(frame)
                case attachment.AddStatements(statements):
                    listener.statements_received(statements)
                case attachment.RosterReset(epoch, entries):
                    listener.roster_reset(epoch, entries)
                case attachment.NodeJoined(epoch, entry):
                    listener.roster_joined(epoch, entry)
                case attachment.NodeLeft(epoch, node):
                    listener.roster_left(epoch, node)
                case attachment.Observed(address, unix_ms):
                    listener.observed(address, unix_ms)
                case attachment.SignalReceived(sender, body):
                    listener.signal_received(sender, body)
                case attachment.AttachRefused(code, message, is_final):
                    raise _refused(code, message, is_final=is_final)
                case _:
                    assert_never(effect)

    def _post(self, frame: attachment.ToServer) -> None:
        if self._link is None:
            return
        try:
            self._link.post_frame(frame)
        except LinkClosed:
            return  # its own task notices and reports it


def _from_server(frame: Frame) -> attachment.FromServer:
    if not isinstance(frame, get_args(attachment.FromServer)):
        raise ProtocolError(f"a server does not send {type(frame).__name__}")
    return cast(attachment.FromServer, frame)


def _reason(error: PoolnetError) -> str:
    return "it does not answer any more, or has ended" if isinstance(error, LinkClosed) else str(error)


def _refused(code: str, message: str, *, is_final: bool) -> PoolnetError:
    """Return what a server's no means: the end of an attempt to join, or only of one to attach to that server."""
    if is_final:
        return Refused(message, code=code)
    if code in attachment.FINAL_CODES:
        message = f"it refuses this device, a member by the pool's statements, saying: {message}"
    return Unreachable(message)
