"""Valid encodings of everything that travels: where mutation begins. Made the same in every run."""

from typing import Any, Final

from poolnet.clock import Hlc
from poolnet.identity.authorship import sign_message
from poolnet.identity.invite_link import InviteLink, ServerAddress
from poolnet.identity.keys import DeviceKey
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
from poolnet.ids import FileId, MsgId, PoolId
from poolnet.protocol.stream_pieces import StreamSigner, encode_stream_piece
from poolnet.wire import bodies, claims, link_frames, pool_frames, swarm_frames, sync_frames
from poolnet.wire.folder_list import EntryKind, FolderEntry, empty_directory, encode_folder_list
from poolnet.wire.framing import Frame, encode_frame
from poolnet.wire.message import Message, encode_message
from poolnet.wire.signal import Signal, encode_signal

KEY: Final = DeviceKey.from_seed(bytes(range(32)))
OTHER_KEY: Final = DeviceKey.from_seed(bytes(range(1, 33)))
ID: Final = bytes(range(100, 132))
LIST_ID: Final = bytes(range(60, 92))
NONCE: Final = bytes(range(16))
HLC: Final = Hlc(1_700_000_000_000 << 16)

GENESIS: Final = make_genesis(KEY, name="sailors", nonce=NONCE, hlc=HLC)
POOL: Final = PoolId(GENESIS.statement_id)
USER: Final = found_user(KEY, unix_ms=1_700_000_000_000, device_name="laptop")
STATEMENTS: Final[tuple[Statement, ...]] = (
    GENESIS,
    make_invite(
        KEY, pool_id=POOL, invite_key=OTHER_KEY.public_key, role=Role.ADMIN, expires_unix_ms=2**41, uses=3, hlc=HLC
    ),
    make_join(KEY, OTHER_KEY, pool_id=POOL, user=USER, hlc=HLC),
    make_removal(KEY, pool_id=POOL, device=OTHER_KEY.device_id, keep=(GENESIS.statement_id,), hlc=HLC),
    make_role(KEY, pool_id=POOL, device=OTHER_KEY.device_id, role=Role.MEMBER, hlc=HLC),
)
BODIES: Final[tuple[bodies.Body, ...]] = (
    bodies.TextBody(text="hello, @anna ⛵", mentions=(KEY.device_id,), to_all=True),
    bodies.AnnouncementBody(text="we sail at nine"),
    bodies.RetractMessageBody(msg_id=MsgId(ID)),
    bodies.AppBody(name="chess.move", data=b"e4"),
    bodies.ProfileBody(name="Anna"),
    bodies.OfferBody(file_id=FileId(ID), name="chart.pdf", size=70_000, stream_id=ID),
    bodies.FolderBody(
        file_id=FileId(ID), list_id=FileId(LIST_ID), name="logs", size=70_000, list_size=200, file_count=3
    ),
    bodies.MediaBody(file_id=FileId(ID), name="boat.jpg", size=70_000, width=640, height=480, preview=b"\xff\xd8\xff"),
    bodies.StreamBody(nonce=NONCE, name="radio"),
    bodies.RetractOfferBody(file_id=FileId(ID)),
    bodies.SignalBody(to=KEY.device_id, signal=b"signal"),
)
MESSAGES: Final[tuple[Message, ...]] = tuple(
    sign_message(KEY, pool_id=POOL, hlc=Hlc(HLC + number), body=body) for number, body in enumerate(BODIES)
)
ADDRESSES: Final = (
    sync_frames.Address(host="192.0.2.1", port=4000),
    sync_frames.Address(host="fe80::1%2", port=65535),
)
SIGNAL: Final = Signal(session=bytes(8), probe_key=ID, candidates=ADDRESSES, answer=True)
_ENTRY: Final = sync_frames.RosterEntry(node=KEY.device_id, places=(1, 2**64 - 1, 3))
_BOUND: Final = (HLC, ID[:5])
_PIECES: Final = ((0, 3), (5, 900))
_STATEMENT: Final = GENESIS.signed
_CLAIMS: Final = (
    claims.Equal((HLC, b"")),
    claims.Fingerprint((HLC + 1, b"\x01"), NONCE),
    claims.Listing((HLC + 2, b""), (MsgId(ID),)),
    claims.More(claims.HIGHEST, (MsgId(ID),)),
)

FRAMES: Final[tuple[Frame, ...]] = (
    link_frames.Hello(
        purpose=0, pool_id=POOL, public_key=KEY.public_key, nonce=ID, credentials=(_STATEMENT,), incarnation=NONCE
    ),
    link_frames.Proof(signature=bytes(64)),
    link_frames.Credit(control_bytes=2**40, chunks=17),
    link_frames.Ping(number=1, unix_ms=2**41),
    link_frames.Pong(number=1, unix_ms=2**41),
    link_frames.Goodbye(code="left", reason="the pool was left"),
    link_frames.LaneOffer(lane_id=NONCE, token=ID, port=4000, hosts=("192.0.2.1", "fe80::1%2")),
    link_frames.LanePass(),
    link_frames.LaneEnded(lane_id=NONCE, chunks=3),
    link_frames.LaneHello(lane_id=NONCE, token=ID),
    link_frames.LaneWelcome(),
    link_frames.LaneReport(received=5, consumed=4),
    pool_frames.StatementIds(ids=(GENESIS.statement_id,)),
    pool_frames.WantStatements(ids=(GENESIS.statement_id,)),
    pool_frames.Statements(statements=(_STATEMENT,)),
    pool_frames.Gossip(hops=3, message=encode_message(MESSAGES[0])),
    pool_frames.GossipHave(ids=(MsgId(ID), MESSAGES[0].msg_id)),
    pool_frames.Graft(ids=(MsgId(ID),)),
    pool_frames.Prune(),
    pool_frames.OpenComparison(
        run=7, lower=claims.LOWEST, upper=claims.HIGHEST, count=0, suggested=_BOUND, fingerprint=NONCE, scope=1
    ),
    pool_frames.Compare(run=7, is_answer=True, lower=claims.LOWEST, claims=_CLAIMS, known_from=_BOUND, scope=1),
    pool_frames.WantMessages(number=2, ids=(MsgId(ID),), scope=1),
    pool_frames.Messages(number=2, is_last=True, messages=(encode_message(MESSAGES[1]),), scope=1),
    swarm_frames.Interest(file_id=FileId(ID), interested=True, hops=2),
    swarm_frames.Have(file_id=FileId(ID), pieces=_PIECES),
    swarm_frames.Want(file_id=FileId(ID), pieces=_PIECES, count=8, hops=1),
    swarm_frames.Promise(file_id=FileId(ID), pieces=_PIECES),
    swarm_frames.Withdraw(file_id=FileId(ID), pieces=_PIECES),
    swarm_frames.Unwant(file_id=FileId(ID), pieces=_PIECES),
    swarm_frames.Relay(file_id=FileId(ID), hops=1, is_fetching=True, count=12),
    swarm_frames.ChunkHeader(file_id=FileId(ID), piece=2, size=65536),
    sync_frames.Attach(last_epoch=9),
    sync_frames.Attached(epoch=9, observed=ADDRESSES[0], unix_ms=2**41),
    sync_frames.RosterPage(entries=(_ENTRY,), last=True),
    sync_frames.RosterJoined(epoch=10, entry=_ENTRY),
    sync_frames.RosterLeft(epoch=11, node=KEY.device_id),
    sync_frames.Refused(code="not_a_member", message="ask for an invite"),
    sync_frames.SendSignal(to=KEY.device_id, body=encode_signal(SIGNAL)),
    sync_frames.Signalled(sender=KEY.device_id, body=encode_signal(SIGNAL)),
    sync_frames.Report(node=KEY.device_id),
    sync_frames.ReportConduct(node=KEY.device_id, kind=2),
    sync_frames.Detach(),
)
FRAME_PAYLOADS: Final = tuple(encode_frame(frame)[4:] for frame in FRAMES)

FOLDER: Final = (
    FolderEntry(path="a/log.txt", size_bytes=12, file_id=FileId(ID)),
    FolderEntry(path="a/run.sh", size_bytes=70_000, file_id=FileId(ID), kind=EntryKind.EXECUTABLE),
    empty_directory("b"),
    FolderEntry(path="c/ü/深い/file", size_bytes=0, file_id=FileId(ID)),
)
FOLDER_LIST: Final = b"".join(encode_folder_list(FOLDER))

_SIGNER: Final = StreamSigner(KEY, POOL, NONCE)
STREAM_ID: Final = _SIGNER.stream_id
STREAM_PIECES: Final = tuple(
    encode_stream_piece(piece)
    for piece in (
        _SIGNER.sign(0, 0, b"first piece"),
        _SIGNER.sign(1, 11, b"", is_final=True, file_id=FileId(ID)),
        _SIGNER.sign(1, 11, b"", is_final=True),
    )
)

SERVER: Final = ServerAddress(host="sync.example.org", port=4433, key=KEY.public_key)
SERVERS: Final = (
    SERVER,
    ServerAddress(host="192.0.2.1", port=1, key=KEY.public_key),
    ServerAddress(host="fe80::1%eth0", port=65535, key=OTHER_KEY.public_key),
)
INVITE: Final = InviteLink(servers=SERVERS, pool_id=POOL, secret=ID)


def texts(*values: Any) -> tuple[bytes, ...]:
    """Return each value as text in UTF-8."""
    return tuple(str(value).encode() for value in values)
