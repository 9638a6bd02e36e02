"""Memory of freed chunks is used again."""

import platform
import subprocess
import sys

import pytest

_COUNT = """
import resource, sys
from poolnet.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
source = bytes(262144) + b"."
before = faults()
for _ in range(200):
    chunks = [source[1:] for _ in range(8)]
    del chunks
print(faults() - before)
"""


def page_faults(mode: str) -> int:
    result = subprocess.run([sys.executable, "-c", _COUNT, mode], capture_output=True, check=True, text=True)
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what the C library does with freed memory is its own")
def test_chunks_come_from_memory_that_was_freed_before() -> None:
    assert page_faults("keep") < page_faults("give back") / 10
