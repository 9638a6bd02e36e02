"""Options and arguments as click sees them: the global ones, which may stand before or after the command, and types."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import click

from poolnet import InvalidAddress, default_home, parse_server_address
from poolnet.limits import DEFAULT_SERVER_PORT
from poolnet_cli.arguments import HomePath, ParamType
from poolnet_cli.settings import MAX_DOWNLOADS, Limits, parse_rate
from poolnet_cli.units import parse_duration, parse_size, parse_time

F = TypeVar("F", bound=Callable[..., Any])

#: The environment's prefix: POOLNET_HOME, POOLNET_SERVE_LISTEN …
ENVIRONMENT_PREFIX: Final = "POOLNET"
INVITE_VARIABLE: Final = "POOLNET_INVITE"
_ANY_ADDRESS: Final = ("::", 0)


@attrs.define(kw_only=True)
class Settings:
    """The global options of one run."""

    home: Path = attrs.field(factory=default_home)
    bind: tuple[str, int] = _ANY_ADDRESS
    as_json: bool = False
    verbose: bool = False
    limits: Limits = Limits()


#: An option of a command, with its environment variable in the help.
option = partial(click.option, show_envvar=True)
#: Gives a command the `Settings`.
pass_settings = click.make_pass_decorator(Settings)


class Duration(ParamType):
    """A duration such as 90s, 15m, 12h, 7d; its value is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Moment(ParamType):
    """A time such as 2026-11-20, 08:40, yesterday or 2h (ago); its value is milliseconds since 1970.

    Args:
        is_end: a day alone stands for its end, not its beginning.
    """

    name = "time"

    def __init__(self, *, is_end: bool = False) -> None:
        self._is_end = is_end

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_time(value, is_end=self._is_end)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Size(ParamType):
    """A size such as 500K, 2M or 1G; its value is bytes.

    Args:
        is_rate: bytes a second; ``none`` is 0.
    """

    name = "size"

    def __init__(self, *, is_rate: bool = False) -> None:
        self._parse = parse_rate if is_rate else parse_size

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return self._parse(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class HostPort(ParamType):
    """An address to listen on: HOST:PORT, [IPV6]:PORT, HOST or :PORT.

    Args:
        default_port: for an address without one.
    """

    name = "host:port"

    def __init__(self, default_port: int) -> None:
        self._default_port = default_port

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, port = self._split(str(value).strip())
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not an address to listen on; write HOST:PORT, or [IPV6]:PORT", param, ctx)
        return host or _ANY_ADDRESS[0], int(port)

    def _split(self, text: str) -> tuple[str, str]:
        if text.startswith("["):
            host, _, rest = text[1:].partition("]")
            return host, rest.removeprefix(":") or str(self._default_port)
        if text.count(":") != 1:
            return text, str(self._default_port)
        host, _, port = text.partition(":")
        return host, port


class ServerLink(ParamType):
    """The address of a sync server as `poolnet serve` prints it; checked here, passed on as text."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parse_server_address(value)
        except InvalidAddress as exc:
            self.fail(str(exc), param, ctx)
        return str(value)


SERVER_PORT: Final = HostPort(DEFAULT_SERVER_PORT)
ANY_PORT: Final = HostPort(0)


def global_options(*, is_root: bool) -> Callable[[F], F]:
    """Return a decorator that adds the global options.

    Args:
        is_root: for the program itself: the environment counts. Otherwise for a command: what is given after it
            overrides what stood before it.
    """

    def add(function: F) -> F:
        for names, field, keywords in reversed(_GLOBAL):
            if is_root:
                keywords = {**keywords, "envvar": f"{ENVIRONMENT_PREFIX}_{names[0].lstrip('-').upper()}"}
            option = click.option(
                *names,
                callback=_store_in(field),
                expose_value=False,
                is_eager=True,
                allow_from_autoenv=False,
                show_envvar=is_root,
                **keywords,
            )
            function = option(function)
        return function

    return add


def limit_options(function: F) -> F:
    """Add the options about what a command may take; what is given is in `Settings.limits`."""
    for names, keywords in reversed(_LIMITS):
        function = option(*names, callback=_store_limit, expose_value=False, **keywords)(function)
    return function


#: Names as `Limits` has them.
_LIMITS: Final[tuple[tuple[tuple[str, ...], dict[str, Any]], ...]] = (
    (("--limit-up",), {"type": Size(is_rate=True), "metavar": "SIZE", "help": "Send at most so much a second: 500K."}),
    (("--limit-down",), {"type": Size(is_rate=True), "metavar": "SIZE", "help": "Fetch at most so much a second: 2M."}),
    (("--downloads",), {"type": click.IntRange(1, MAX_DOWNLOADS), "metavar": "N", "help": "So many at once."}),
    (("--cache",), {"type": Size(), "metavar": "SIZE", "help": "Hold so much on disk for others: 256M, or 0."}),
    (("--pictures",), {"type": Size(), "metavar": "SIZE", "help": "Keep so much of pictures; 0 fetches none unasked."}),
    (("--tcp/--no-tcp",), {"default": None, "help": "Whether files may travel over TCP."}),
)


def _store_limit(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    settings = ctx.find_root().ensure_object(Settings)
    field = str(param.name).removeprefix("limit_")
    settings.limits = Limits(**{field: value}).over(settings.limits)


_GLOBAL: Final[tuple[tuple[tuple[str, ...], str, dict[str, Any]], ...]] = (
    (("--home",), "home", {"type": HomePath(), "metavar": "DIR", "help": "The home directory of this device."}),
    (("--bind",), "bind", {"type": ANY_PORT, "metavar": "HOST:PORT", "help": "Where its UDP socket is bound."}),
    (("--json",), "as_json", {"is_flag": True, "help": "Print one JSON object a line."}),
    (("--verbose", "-v"), "verbose", {"is_flag": True, "help": "Log to standard error, and show tracebacks."}),
)


def _store_in(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.find_root().ensure_object(Settings), field, value)

    return store
