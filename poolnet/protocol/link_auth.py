"""How the two ends of a link prove their device keys to each other, before anything else is said on it.

The dialler has pinned the acceptor's key in TLS; the acceptor knows nothing of the dialler (aioquic does not enforce
client certificates). On the control stream, the first bidirectional one, opened by the dialler:

    dialler                                   acceptor
    Hello (purpose, pool, key, nonce)    →
                                         ←    Hello (the same purpose and pool, the pinned key, nonce)
    Proof                                →
                                         ←    Proof

A proof is a signature over label, role, purpose, pool, both keys and both nonces: it cannot be reflected (role), used
with another peer (keys) or used again (nonces). The acceptor proves itself last, so a dialler that is through knows
that it was let in. Until then a peer gets `MAX_PRE_AUTH_SIZE` bytes and `PRE_AUTH_TIMEOUT_S` seconds.
"""

import enum
from collections.abc import Callable

import attrs

from poolnet.errors import Refused, WireError
from poolnet.identity.keys import DeviceKey, verify_signature
from poolnet.ids import PoolId, PublicKey
from poolnet.limits import MAX_PRE_AUTH_SIZE, MAX_REASON_CHARS, PRE_AUTH_TIMEOUT_S
from poolnet.wire.cbor import encode_cbor
from poolnet.wire.framing import FrameBuffer, FrameSet, encode_frame
from poolnet.wire.link_frames import Goodbye, Hello, Proof, Purpose

LABEL = "poolnet link 1"
NONCE_SIZE = 32

#: The acceptor's policy on a Hello that is decoded but not yet proven: returns our credentials for the answer, or
#: raises `Refused`, whose code and message go to the dialler.
Authorise = Callable[[Hello], tuple[bytes, ...]]

_FRAMES = FrameSet((Hello, Proof, Goodbye))


@attrs.frozen
class Started:
    """TLS is up."""


@attrs.frozen
class Received:
    """The next bytes of the control stream."""

    data: bytes


@attrs.frozen
class SendBytes:
    """To be written to the control stream."""

    data: bytes


@attrs.frozen
class Proven:
    """Both sides are who they say. `rest` are bytes of the control stream that follow the proof."""

    hello: Hello
    rest: bytes


@attrs.frozen
class Rejected:
    """The peer is not let in; `code` and `reason` go into a Goodbye."""

    code: str
    reason: str


@attrs.frozen
class TurnedAway:
    """The peer does not let us in, for its reason."""

    code: str
    reason: str


Effect = SendBytes | Proven | Rejected | TurnedAway


class _State(enum.Enum):
    WAIT_START = 0
    WAIT_HELLO = 1
    WAIT_PROOF = 2
    DONE = 3


class LinkAuth:
    """One side's part in the proof of one link.

    Args:
        key: our device key.
        nonce: `NONCE_SIZE` unpredictable bytes, never used before.
        incarnation: the same random bytes on all links of an endpoint, others when it is opened again.
        now: when the connection began. An acceptor's time limit counts from here, a dialler's from `Started`.
        hello: what a dialler says; `None` makes this the acceptor.
        peer_key: whom the dialler has pinned.
        authorise: the acceptor's policy.
    """

    def __init__(
        self,
        key: DeviceKey,
        *,
        nonce: bytes,
        incarnation: bytes = b"",
        now: float,
        hello: tuple[Purpose, PoolId, tuple[bytes, ...]] | None = None,
        peer_key: PublicKey | None = None,
        authorise: Authorise | None = None,
    ) -> None:
        if (hello is None) == (authorise is None) or (hello is None) != (peer_key is None):
            raise ValueError("a dialler has a hello and a pinned key, an acceptor a policy")
        self._key = key
        self._nonce = nonce
        self._incarnation = incarnation
        self._peer_key = peer_key
        self._authorise = authorise
        self._is_dialler = hello is not None
        self._ours = None if hello is None else self._make_hello(*hello)
        self._theirs: Hello | None = None
        self._state = _State.WAIT_START
        self._buffer = FrameBuffer(max_size=MAX_PRE_AUTH_SIZE)
        self._received_size = 0
        self._deadline = None if self._is_dialler else now + PRE_AUTH_TIMEOUT_S

    @property
    def is_done(self) -> bool:
        """Whether it ended, well or not; nothing more may be fed."""
        return self._state is _State.DONE

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        return None if self.is_done else self._deadline

    def tick(self, now: float) -> list[Effect]:
        """Notice that the time is up."""
        if self.is_done or self._deadline is None or now < self._deadline:
            return []
        return self._reject("auth_timeout", "the proof took too long")

    def handle(self, event: Started | Received, now: float) -> list[Effect]:
        """Take what happened; return what to do about it."""
        match event:
            case Started():
                return self._start(now)
            case Received(data):
                return self._receive(data)

    def _start(self, now: float) -> list[Effect]:
        if self._deadline is None:
            self._deadline = now + PRE_AUTH_TIMEOUT_S
        self._state = _State.WAIT_HELLO
        return [SendBytes(encode_frame(self._ours))] if self._ours is not None else []

    def _receive(self, data: bytes) -> list[Effect]:
        effects: list[Effect] = []
        self._received_size += len(data)
        self._buffer.feed_untrusted(data)
        try:
            while not self.is_done and (payload := self._buffer.take()) is not None:
                effects += self._handle_frame(_FRAMES.decode_untrusted(payload))
        except WireError as exc:
            return [*effects, *self._reject("protocol", str(exc))]
        if not self.is_done and self._received_size > MAX_PRE_AUTH_SIZE:
            effects += self._reject("protocol", "too much was sent before the proof")
        return effects

    def _handle_frame(self, frame: object) -> list[Effect]:
        match frame:
            case Hello() if self._state is _State.WAIT_HELLO:
                return self._handle_hello(frame)
            case Proof() if self._state is _State.WAIT_PROOF:
                return self._handle_proof(frame)
            case Goodbye():
                self._state = _State.DONE
                return [TurnedAway(frame.code, frame.reason)]
            case _:
                return self._reject("protocol", "another frame than the proof was expected")

    def _handle_hello(self, hello: Hello) -> list[Effect]:
        self._theirs = hello
        if self._is_dialler:
            return self._answer_as_dialler(hello)
        return self._answer_as_acceptor(hello)

    def _answer_as_dialler(self, hello: Hello) -> list[Effect]:
        assert self._ours is not None
        if hello.public_key != self._peer_key:  # public values: no need for constant time
            return self._reject("wrong_key", "another device key than the pinned one was claimed")
        if (hello.purpose, hello.pool_id) != (self._ours.purpose, self._ours.pool_id):
            return self._reject("protocol", "the answer is about another pool or purpose")
        self._state = _State.WAIT_PROOF
        return [SendBytes(self._make_proof())]

    def _answer_as_acceptor(self, hello: Hello) -> list[Effect]:
        assert self._authorise is not None
        try:
            purpose = Purpose(hello.purpose)
        except ValueError:
            return self._reject("unsupported", "a purpose that this version does not know")
        if hello.public_key == self._key.public_key:
            return self._reject("self", "a device does not link to itself")
        try:
            credentials = self._authorise(hello)
        except Refused as exc:
            return self._reject(exc.code, str(exc))
        self._ours = self._make_hello(purpose, hello.pool_id, credentials)
        self._state = _State.WAIT_PROOF
        return [SendBytes(encode_frame(self._ours))]

    def _handle_proof(self, proof: Proof) -> list[Effect]:
        assert self._theirs is not None
        signed = self._statement(by_dialler=not self._is_dialler)
        if not verify_signature(self._theirs.public_key, proof.signature, signed):
            return self._reject("wrong_proof", "the device key was not proven")
        self._state = _State.DONE
        answer: list[Effect] = [] if self._is_dialler else [SendBytes(self._make_proof())]
        return [*answer, Proven(self._theirs, self._buffer.take_rest())]

    def _make_hello(self, purpose: Purpose, pool_id: PoolId, credentials: tuple[bytes, ...]) -> Hello:
        return Hello(
            purpose=int(purpose),
            pool_id=pool_id,
            public_key=self._key.public_key,
            nonce=self._nonce,
            credentials=credentials,
            incarnation=self._incarnation,
        )

    def _make_proof(self) -> bytes:
        return encode_frame(Proof(signature=self._key.sign(self._statement(by_dialler=self._is_dialler))))

    def _statement(self, *, by_dialler: bool) -> bytes:
        """Return what the dialler or the acceptor signs."""
        assert self._ours is not None
        assert self._theirs is not None
        dialler, acceptor = (self._ours, self._theirs) if self._is_dialler else (self._theirs, self._ours)
        return encode_cbor(
            [
                LABEL,
                "dialler" if by_dialler else "acceptor",
                dialler.purpose,
                dialler.pool_id,
                dialler.public_key,
                acceptor.public_key,
                dialler.nonce,
                acceptor.nonce,
            ]
        )

    def _reject(self, code: str, reason: str) -> list[Effect]:
        self._state = _State.DONE
        return [Rejected(code[:MAX_REASON_CHARS], reason[:MAX_REASON_CHARS])]
