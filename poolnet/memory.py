"""Memory for chunks: what is freed is kept for the next ones."""

from typing import Final

from poolnet.limits import MIB

_KEPT_SIZE: Final = 8 * MIB


def keep_freed_memory() -> None:
    """Let the C library keep freed chunks for the next ones.

    glibc gives large blocks back to the system at once, and takes new ones page by page: a fast transfer spends a sixth
    of its time on that. Its thresholds follow the largest block that was ever freed (mallopt(3), `M_MMAP_THRESHOLD`);
    none of this block is ever touched. Elsewhere this does nothing.
    """
    bytearray(_KEPT_SIZE)
