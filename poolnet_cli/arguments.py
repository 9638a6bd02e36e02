"""What names a pool or a place, as click sees it: refused where it cannot be meant, before anything is opened.

An empty text is what an unset variable of a script comes to; it never stands for something.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[Any, Any]
else:
    ParamType = click.ParamType  # generic in newer versions of click only


def is_invite(text: str) -> bool:
    """Return whether `text` is meant as an invite link, not as a pool of this home."""
    return "://" in text or text.lower().startswith("poolnet:")


class PoolName(ParamType):
    """A pool of this device, by its name or the beginning of its id."""

    name = "pool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.strip():
            self.fail("it is empty; name a pool of this device (poolnet status lists them)", param, ctx)
        if is_invite(text):  # which is a secret: it is not repeated
            self.fail("that is an invite; join it first (poolnet join INVITE), then name the pool", param, ctx)
        return text


class WholePath(ParamType):
    """A path, made absolute as seen from the working directory; ``~`` is written out."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        text = os.fspath(value)
        if not text:
            self.fail("it is empty; write a path ('.' is the working directory)", param, ctx)
        try:
            path = Path(text).expanduser().absolute()
            return path.resolve() if ".." in path.parts else path  # links before a ".." are followed
        except (RuntimeError, OSError):  # no such user, or the current directory is gone
            self.fail(f"cannot tell where {text} is; write the whole path", param, ctx)


class HomePath(WholePath):
    """The path of a home, which need not exist."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if os.path.lexists(path) and not os.path.isdir(path):
            self.fail(f"{path} is not a directory; a home is one", param, ctx)
        return path


POOL: Final = PoolName()
WHOLE_PATH: Final = WholePath()
