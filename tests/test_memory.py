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


_KEEP = """
import sys, threading
from poolnet.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
bytearray(8 * 2**20)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
def use():
    chunks = [b"x" * 2**20 for _ in range(8)]
    all_have_them.wait()
all_have_them = threading.Barrier(12)
threads = [threading.Thread(target=use) for _ in range(12)]
before = resident()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident() - before)
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="what the C library does with freed memory is its own"
)


def run(program: str, mode: str) -> int:
    result = subprocess.run([sys.executable, "-c", program, mode], capture_output=True, check=True, text=True)
    return int(result.stdout)


def test_threads_that_end_leave_few_heaps_behind() -> None:
    assert run(_KEEP, "keep") < 0.8 * run(_KEEP, "")


def test_chunks_come_from_memory_that_was_freed_before() -> None:
    assert run(_COUNT, "keep") < run(_COUNT, "give back") / 10
