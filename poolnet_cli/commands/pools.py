"""``create``, ``invite``, ``status`` and ``leave``: the pools of a home."""

from pathlib import Path
from typing import Final

from poolnet import InviteLink, encode_id, format_invite_link, parse_server_address
from poolnet_cli.command import Call, Params
from poolnet_cli.patience import until_reached
from poolnet_cli.records import pool_record
from poolnet_cli.reporter import Reporter

_NO_POOLS: Final = "no pools yet: poolnet create NAME makes one, poolnet join INVITE enters one"


async def create(call: Call) -> None:
    """Make a pool. Params: name, server (an address or None), timeout_s."""
    server = call.params["server"]
    address = None if server is None else parse_server_address(server)
    link = await until_reached(
        lambda: call.session.node.create_pool(call.params["name"], server=address),
        call.params["timeout_s"],
        () if address is None else (address,),
        call.reporter,
    )
    await _report_invite(call, link)


async def invite(call: Call) -> None:
    """Make another invite. Params: pool, uses (None: any number), expires_s, timeout_s."""
    node = call.session.node
    info = node.find_pool(call.params["pool"])
    link = await until_reached(
        lambda: node.invite(info, uses=call.params["uses"], expires_s=call.params["expires_s"]),
        call.params["timeout_s"],
        info.servers,
        call.reporter,
    )
    await _report_invite(call, link)


async def _report_invite(call: Call, link: InviteLink) -> None:
    info = call.session.node.find_pool(encode_id(link.pool_id))
    await call.reporter.record({"invite": format_invite_link(link), "pool": encode_id(info.pool_id), "name": info.name})


async def status(call: Call) -> None:
    """List the pools of this home."""
    session = call.session
    pools = session.node.pools()
    for info in pools:
        joined = session.joined(info.pool_id)
        await call.reporter.record(pool_record(info, session.node.device_id, joined))
    if not pools:
        await call.reporter.note(_NO_POOLS)


async def status_without_home(_home: Path, _params: Params, reporter: Reporter) -> None:
    """List the pools where there is no home: none."""
    await reporter.note(_NO_POOLS)


async def leave(call: Call) -> None:
    """Leave a pool for good. Params: pool."""
    info = call.session.node.find_pool(call.params["pool"])
    await call.session.leave(info)
    await call.reporter.record({"pool": encode_id(info.pool_id), "name": info.name})
    await call.reporter.note(
        f"left {info.name}; its history and settings are gone from this device, fetched files stay"
    )
