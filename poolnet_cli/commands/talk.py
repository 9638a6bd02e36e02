"""``send``, ``announce``, ``wait`` and ``peers``: what reaches the others, and who is there to read it."""

from collections.abc import Awaitable, Callable

import trio

from poolnet import MsgId, PoolInfo, PoolNet, Refused, TextTooLong, Unreachable, encode_id
from poolnet.limits import MAX_TEXT_CHARS
from poolnet_cli.command import Call
from poolnet_cli.patience import told_if_slow
from poolnet_cli.records import peer_record
from poolnet_cli.units import format_duration

#: After the first link, how long to wait for those to the others.
_MORE_LINKS_S = 2.0
_LINK_POLL_S = 0.05


async def send(call: Call) -> None:
    """Send a text. Params: pool, text, timeout_s."""
    text = _checked(call.params["text"])
    info = call.session.node.find_pool(call.params["pool"])
    await _publish(call, info, lambda net: net.send(text))


async def announce(call: Call) -> None:
    """Announce a text, as an admin. Params: pool, text, timeout_s."""
    text = _checked(call.params["text"])
    info = call.session.node.find_pool(call.params["pool"])
    if info.role != "admin":
        raise Refused(f"only an admin of {info.name} can announce; send it as a message", code="not_admin")
    await _publish(call, info, lambda net: net.announce(text))


async def _publish(call: Call, info: PoolInfo, publish: Callable[[PoolNet], Awaitable[MsgId]]) -> None:
    """Make a message of it, and report its id.

    Where the pool is joined already, it is on its way at once. Otherwise the pool is entered, and nothing is made
    before somebody is linked who can take it.
    """
    give_up_at = trio.current_time() + call.params["timeout_s"]
    async with call.session.use_pool(info) as use:
        if use.is_shared:
            msg_id = await publish(use.net)
        else:
            async with told_if_slow(call.reporter, "waiting until another member is there"):
                await use.net.wait_linked(_left(give_up_at))
            msg_id = await publish(use.net)
            await _wait_delivered(use.net, give_up_at, call.params["timeout_s"])
        await call.reporter.record({"id": encode_id(msg_id)})


async def _wait_delivered(net: PoolNet, give_up_at: float, timeout_s: float) -> None:
    """Wait until a neighbour has it, for what is left of `timeout_s`.

    Raises:
        Unreachable: not in time.
    """
    try:
        await net.delivered(_left(give_up_at))
    except Unreachable as exc:
        raise Unreachable(
            f"no other member confirmed the message within {timeout_s:g} s; it is kept and goes out when one is there"
        ) from exc


def _checked(text: str) -> str:
    if not text:
        raise TextTooLong("the text is empty; there is nothing to send")
    if len(text) > MAX_TEXT_CHARS:
        raise TextTooLong(f"the text has {len(text)} characters, at most {MAX_TEXT_CHARS} fit; split it or send a file")
    return text


def _left(give_up_at: float) -> float:
    return round(max(0.0, give_up_at - trio.current_time()), 1)


async def wait(call: Call) -> None:
    """Wait until this device and all its neighbours have the same history. Params: pool, timeout_s.

    Entering the pool for it, this waits first until somebody is linked.

    Raises:
        Unreachable: that took longer, or nobody is there.
    """
    info = call.session.node.find_pool(call.params["pool"])
    began_at = trio.current_time()
    give_up_at = began_at + call.params["timeout_s"]
    async with call.session.use_pool(info) as use:
        async with told_if_slow(call.reporter, "waiting until this device and its neighbours agree"):
            await use.net.wait_linked(_left(give_up_at))
            if not use.is_shared:
                await _wait_for_more_links(use.net)
            await use.net.synced(_left(give_up_at))
        links = sum(member.linked for member in use.net.members())
        took_s = trio.current_time() - began_at
        await call.reporter.record({"event": "synced", "neighbours": links, "seconds": round(took_s, 3)})
        whom = "its neighbour" if links == 1 else f"its {links} neighbours"
        await call.reporter.note(f"this device and {whom} have the same history (after {format_duration(took_s)})")


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
            is_news = member.online or member.linked or member.shunned_s is not None
            if not member.is_self and (is_news or call.params["all"]):
                await call.reporter.record(peer_record(member))


async def _wait_for_more_links(net: PoolNet) -> None:
    for _ in range(round(_MORE_LINKS_S / _LINK_POLL_S)):
        if all(member.linked for member in net.members() if member.online and not member.is_self):
            return
        await trio.sleep(_LINK_POLL_S)
