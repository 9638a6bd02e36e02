"""``settings``: what this device may take, as long as no option says otherwise."""

from pathlib import Path

import attrs
import trio

from poolnet_cli.command import Call, Params
from poolnet_cli.reporter import Reporter
from poolnet_cli.settings import DEFAULTS, SETTINGS, Limits, read_settings, write_setting

#: What counts only when a home is opened.
_AT_START = frozenset({"cache", "pictures", "tcp"})


async def settings(call: Call) -> None:
    """List the settings, or change one. Params: name (None: list all), is_change, value (None: its default).

    What is changed counts at once for the pools that this process has joined, as far as it can.
    """
    name, home = call.params["name"], call.session.node.home
    if call.params["is_change"]:
        await trio.to_thread.run_sync(write_setting, home, name, call.params["value"])
    stored = await trio.to_thread.run_sync(read_settings, home)
    limits = stored.limits
    if call.params["is_change"]:
        call.session.take_settings(limits)
    if call.session.is_in_use:  # else it was told when the home was opened
        for text in stored.wrong:
            await call.reporter.note(text)
    await _list(limits, name, call.reporter)
    if call.params["is_change"] and name in _AT_START and call.session.is_in_use:
        await call.reporter.note("this counts from the next start of the join that runs in this home")


async def settings_without_home(home: Path, params: Params, reporter: Reporter) -> None:
    """List the settings of a home that is yet to be made. Params: name (None: list all)."""
    stored = await trio.to_thread.run_sync(read_settings, home)
    await _list(stored.limits, params["name"], reporter)


async def _list(limits: Limits, name: str | None, reporter: Reporter) -> None:
    """List what `limits` and the defaults come to; only the setting `name`, if there is one."""
    in_effect = attrs.asdict(limits.over(DEFAULTS))
    for setting in SETTINGS.values():
        if name in (None, setting.name):
            is_set = getattr(limits, setting.field) is not None
            value = in_effect[setting.field]
            await reporter.record({"name": setting.name, "value": value, "is_set": is_set})
