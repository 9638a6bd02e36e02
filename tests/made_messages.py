"""Messages for tests of storage: well-formed, their signatures not."""

from poolnet.clock import Hlc
from poolnet.ids import PoolId, PublicKey
from poolnet.wire.message import Message, MessageContent, encode_content, message_id

POOL = PoolId(bytes(32))


def make_message(hlc: int, *, kind: str = "text", body: bytes = b"") -> Message:
    content = MessageContent(pool_id=POOL, kind=kind, hlc=Hlc(hlc), author_key=PublicKey(bytes(32)), body=body)
    signed = encode_content(content)
    return Message(msg_id=message_id(signed), content=content, signed=signed, signature=bytes(64))
