"""``send``, ``history`` and ``peers``: messages, and who is there to read them."""

import trio

from poolnet import MsgId, Node, PoolInfo, PoolNet, TextTooLong, UnknownMessage, encode_id
from poolnet.limits import MAX_TEXT_CHARS
from poolnet_cli.command import Call
from poolnet_cli.patience import told_if_slow
from poolnet_cli.records import history_record, peer_record

#: Messages looked through at a time for one whose id begins as asked.
_SEARCH_PAGE = 500
#: The shortest beginning of an id that names a message.
_MIN_PREFIX = 4
#: After the first link, how long to wait for those to the others.
_MORE_LINKS_S = 2.0
_LINK_POLL_S = 0.05


async def send(call: Call) -> None:
    """Send a text. Params: pool, text, timeout_s.

    Where the pool is joined already, the message is on its way at once. Otherwise the pool is entered, and nothing is
    sent before somebody is linked who can take it.
    """
    text, timeout_s = call.params["text"], call.params["timeout_s"]
    if not text:
        raise TextTooLong("the text is empty; there is nothing to send")
    if len(text) > MAX_TEXT_CHARS:
        raise TextTooLong(f"the text has {len(text)} characters, at most {MAX_TEXT_CHARS} fit; split it or send a file")
    info = call.session.node.find_pool(call.params["pool"])
    give_up_at = trio.current_time() + timeout_s
    async with call.session.use_pool(info) as use:
        if use.is_shared:
            msg_id = await use.net.send(text)
        else:
            async with told_if_slow(call.reporter, "waiting until another member is there"):
                await use.net.wait_linked(_left(give_up_at))
            msg_id = await use.net.send(text)
            await use.net.delivered(_left(give_up_at))
        await call.reporter.record({"id": encode_id(msg_id)})


def _left(give_up_at: float) -> float:
    return round(max(0.0, give_up_at - trio.current_time()), 1)


async def history(call: Call) -> None:
    """List messages that this device has, oldest first. Params: pool, limit, before (a message id or its beginning)."""
    node = call.session.node
    info = node.find_pool(call.params["pool"])
    before = call.params["before"]
    anchor = None if before is None else await _find_message(node, info, before.lower())
    for entry in await node.history(info, limit=call.params["limit"], before=anchor):
        await call.reporter.record(history_record(entry))


async def _find_message(node: Node, info: PoolInfo, prefix: str) -> MsgId:
    """Return the newest message whose id begins with `prefix`.

    Raises:
        UnknownMessage: there is none, or the beginning is too short to mean one.
    """
    if len(prefix) < _MIN_PREFIX:
        raise UnknownMessage(f"{prefix!r} is too short; give at least {_MIN_PREFIX} characters of a message id")
    before = None
    while page := await node.history(info, limit=_SEARCH_PAGE, before=before):
        for entry in reversed(page):
            if encode_id(entry.msg_id).startswith(prefix):
                return entry.msg_id
        before = page[0].msg_id
    raise UnknownMessage(f"no message on this device has an id that begins with {prefix!r}; poolnet history shows ids")


async def peers(call: Call) -> None:
    """List who is there, and the links to them. Params: pool, timeout_s, all (members that are away, too).

    Entering the pool for it, this waits until somebody is linked.
    """
    info = call.session.node.find_pool(call.params["pool"])
    async with call.session.use_pool(info) as use:
        if not use.is_shared:
            async with told_if_slow(call.reporter, "waiting until another member is there"):
                await use.net.wait_linked(call.params["timeout_s"])
            await _wait_for_more_links(use.net)
        for member in use.net.members():
            if not member.is_self and (member.online or member.linked or call.params["all"]):
                await call.reporter.record(peer_record(member))


async def _wait_for_more_links(net: PoolNet) -> None:
    for _ in range(round(_MORE_LINKS_S / _LINK_POLL_S)):
        if all(member.linked for member in net.members() if member.online and not member.is_self):
            return
        await trio.sleep(_LINK_POLL_S)
