"""Memory for chunks: what is freed is kept for the next ones."""

import ctypes
from contextlib import suppress
from typing import Final

from poolnet.limits import MIB

_KEPT_SIZE: Final = 8 * MIB
#: ``M_ARENA_MAX`` of glibc's malloc.h, and what is set by it.
_ARENA_MAX: Final = -8
_ARENAS: Final = 2


def keep_freed_memory() -> None:
    """Let the C library keep freed chunks for the next ones.

    glibc gives large blocks back to the system at once, and takes new ones page by page: a fast transfer spends a sixth
    of its time on that. Its thresholds follow the largest block that was ever freed (mallopt(3), `M_MMAP_THRESHOLD`);
    none of this block is ever touched.

    It also has a heap for each thread, and what was freed in one is of no use in the others; so a program with threads
    that come and go keeps more and more. Two are enough where one thread runs Python at a time. Elsewhere than with
    glibc this does nothing.
    """
    bytearray(_KEPT_SIZE)
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
