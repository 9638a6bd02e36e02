"""Inputs worth keeping: one file each in ``fuzz/corpus``, the number of a decoder and then what it is fed."""

from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"
#: Longer ones are not kept: what they show, a shorter one shows as well.
MAX_KEPT_BYTES: Final = 1024
#: ... of each decoder.
MAX_KEPT_INPUTS: Final = 6


def read_corpus() -> list[bytes]:
    """Return what is kept, in no particular order."""
    return [path.read_bytes() for path in CORPUS.iterdir()]
