"""The pieces of a stream: what a stream id stands for, and how each piece is checked by whoever holds it.

A stream is a file that grows: nobody knows its hash tree yet, so each of its pieces is signed by its author instead.
The id binds the author, the pool and a nonce; a piece carries the author's key and the nonce. So it can be verified
alone, in any order, by any device that knows the pool and the id, a relay included. Pieces are numbered from 0 without
gaps; each says where in the stream its bytes begin. The last one is marked as final: with the id of the whole as a
file, or without one if its author broke off.

A piece in wire form is one CBOR array of at most `CHUNK_SIZE` bytes, so it travels as the chunks of a file do.
"""

from typing import Final

import attrs
from blake3 import blake3

from poolnet.errors import WireError
from poolnet.identity.keys import DeviceKey, device_id_of, verify_signature
from poolnet.ids import ID_SIZE, DeviceId, FileId, PoolId, PublicKey
from poolnet.limits import CHUNK_SIZE, MAX_FILE_SIZE, MAX_STREAM_PIECE_SIZE
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor
from poolnet.wire.schema import BOOLEAN, ID32, SIGNATURE, data, decode_fields_untrusted, encode_fields, integer, wire
from poolnet.wire.swarm_frames import MAX_PIECES

LABEL: Final = "poolnet stream piece 1"
NONCE_SIZE: Final = 16
_ID_CONTEXT: Final = "poolnet stream 1"


@attrs.frozen(kw_only=True)
class StreamPiece:
    """One piece. `offset` is where in the stream `data` begins; `file_id` is empty unless it is the last of a whole."""

    author_key: PublicKey = wire(ID32)
    nonce: bytes = wire(data(min_size=NONCE_SIZE, max_size=NONCE_SIZE))
    index: int = wire(integer(0, MAX_PIECES - 1))
    offset: int = wire(integer(0, MAX_FILE_SIZE))
    is_final: bool = wire(BOOLEAN)
    file_id: bytes = wire(data(max_size=ID_SIZE))
    data: bytes = wire(data(max_size=MAX_STREAM_PIECE_SIZE), repr=False)
    signature: bytes = wire(SIGNATURE, repr=False)

    @property
    def end_offset(self) -> int:
        """Where the next piece begins."""
        return self.offset + len(self.data)


_FIELD_COUNT: Final = len(attrs.fields(StreamPiece))


def stream_id_of(author: DeviceId, pool_id: PoolId, nonce: bytes) -> FileId:
    """Return the id of the stream that a device publishes in a pool under that nonce."""
    return FileId(blake3(author + pool_id + nonce, derive_key_context=_ID_CONTEXT).digest())


class StreamSigner:
    """Makes the pieces of one stream.

    Args:
        key: of its author.
        pool_id: where it is published.
        nonce: `NONCE_SIZE` bytes that the author never used before.
    """

    def __init__(self, key: DeviceKey, pool_id: PoolId, nonce: bytes) -> None:
        self.pool_id = pool_id
        self.nonce = nonce
        self.stream_id = stream_id_of(key.device_id, pool_id, nonce)
        self._key = key

    def sign(
        self, index: int, offset: int, content: bytes, *, is_final: bool = False, file_id: FileId | None = None
    ) -> StreamPiece:
        """Return piece `index`, whose bytes `content` begin at `offset` of the stream.

        Args:
            index: how many pieces come before it.
            offset: how many bytes come before it.
            content: at most `MAX_STREAM_PIECE_SIZE` bytes; only the final piece may be empty.
            is_final: whether nothing follows.
            file_id: of the final piece: what the whole is as a file; None says that the stream was broken off.
        """
        unsigned = self.restore(index, offset, content, is_final=is_final, file_id=file_id, signature=b"")
        return attrs.evolve(unsigned, signature=self._key.sign(_signed_bytes(unsigned, self.pool_id, self.stream_id)))

    def restore(
        self,
        index: int,
        offset: int,
        content: bytes,
        *,
        is_final: bool = False,
        file_id: FileId | None = None,
        signature: bytes,
    ) -> StreamPiece:
        """Return a piece that was signed before; whether the signature fits is not looked at."""
        return StreamPiece(
            author_key=self._key.public_key,
            nonce=self.nonce,
            index=index,
            offset=offset,
            is_final=is_final,
            file_id=file_id or b"",
            data=content,
            signature=signature,
        )


def stream_piece_is_genuine(piece: StreamPiece, *, pool_id: PoolId, stream_id: FileId) -> bool:
    """Return whether the author of that stream made this piece. Which number it has is for the caller to compare."""
    author = device_id_of(piece.author_key)
    return stream_id_of(author, pool_id, piece.nonce) == stream_id and verify_signature(
        piece.author_key, piece.signature, _signed_bytes(piece, pool_id, stream_id)
    )


def encode_stream_piece(piece: StreamPiece) -> bytes:
    """Return a piece in wire form."""
    return encode_cbor(encode_fields(piece))


def decode_stream_piece_untrusted(encoded: bytes) -> StreamPiece:
    """Return a piece from its wire form; it is well-formed, but not verified (`stream_piece_is_genuine`).

    Raises:
        WireError: it is not what any author could have made.
    """
    items = decode_cbor_untrusted(encoded, max_size=CHUNK_SIZE)
    if isinstance(items, list) and len(items) > _FIELD_COUNT:  # a relay could add to it what nobody has signed
        raise WireError("a piece of a stream with fields that nobody signed")
    piece = decode_fields_untrusted(StreamPiece, items)
    if piece.is_final:
        if len(piece.file_id) not in (0, ID_SIZE):
            raise WireError("the last piece of a stream with half a file id")
    elif piece.file_id or not piece.data:
        raise WireError("a piece of a stream that brings nothing, or a file id before the end")
    return piece


def _signed_bytes(piece: StreamPiece, pool_id: PoolId, stream_id: FileId) -> bytes:
    return encode_cbor(
        [
            LABEL,
            pool_id,
            stream_id,
            piece.index,
            piece.offset,
            len(piece.data),
            piece.is_final,
            piece.file_id,
            blake3(piece.data).digest(),
        ]
    )
