"""All measurements, one after another, a JSON line each. Takes some minutes; run it on an idle machine."""

import json
import subprocess
import sys

import trio

from benchmarks import history, latency, transfer

TRANSFERS = (
    # size in MiB, receivers, datagram, runs
    (256, 1, 16370, 3),
    (64, 1, 1452, 3),
    (128, 4, 16370, 3),
    (1024, 1, 16370, 1),
)


def main() -> None:
    """Measure and print."""
    for size_mib, receivers, datagram, runs in TRANSFERS:
        print(json.dumps(transfer.measure(size_mib, receivers, datagram, runs)), flush=True)
    print(json.dumps(trio.run(latency.measure, 100, 0.05)), flush=True)
    trio.run(history.report, 1_000_000)
    for bench in ("reconciliation", "messages"):  # the latter goes into a network namespace of its own
        subprocess.run([sys.executable, "-m", f"benchmarks.{bench}"], check=True)


if __name__ == "__main__":
    main()
