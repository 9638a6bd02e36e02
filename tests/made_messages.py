"""Messages for tests of storage: well-formed, their signatures not."""

from poolnet.clock import Hlc
from poolnet.ids import MsgId, PoolId, PublicKey
from poolnet.wire.bodies import Body, RetractMessageBody, TextBody, encode_body
from poolnet.wire.message import Message, MessageContent, encode_content, message_id

POOL = PoolId(bytes(32))


def make_message(hlc: int, *, kind: str = "text", body: bytes = b"", author: int = 0) -> Message:
    """Make a message whose body need not be one of its kind; `author` is a small number."""
    content = MessageContent(
        pool_id=POOL, kind=kind, hlc=Hlc(hlc), author_key=PublicKey(bytes([author]) * 32), body=body
    )
    signed = encode_content(content)
    return Message(msg_id=message_id(signed), content=content, signed=signed, signature=bytes(64))


def make_said(hlc: int, body: Body, *, author: int = 0) -> Message:
    """Make a message with a body of its kind."""
    return make_message(hlc, kind=body.KIND, body=encode_body(body), author=author)


def make_text(hlc: int, text: str, *, author: int = 0) -> Message:
    """Make a text."""
    return make_said(hlc, TextBody(text=text), author=author)


def make_tombstone(hlc: int, target: Message | MsgId, *, author: int = 0) -> Message:
    """Make a message that retracts another one."""
    msg_id = target.msg_id if isinstance(target, Message) else target
    return make_said(hlc, RetractMessageBody(msg_id=msg_id), author=author)
