"""All measurements, one after another, a JSON line each. Takes half an hour as root; run it on an idle machine."""

import subprocess
import sys

#: What is measured, with its arguments. The last ones make network namespaces, for which they need root.
BENCHES = (
    "transfer --size-mib 1024",
    "transfer --size-mib 512 --quic",
    "transfer --size-mib 128 --quic --datagram 1452",
    "transfer --size-mib 64 --receivers 8",
    "link_speed",
    "latency",
    "load_latency",
    "extremes",
    "history",
    "reconciliation",
    "messages",
    "half_open",
    "bogus_signatures",
    "transfer --size-mib 512 --apart",
    "uplinks",
    "uplinks --slow 2",
    "relayed",
)


def main() -> None:
    """Measure and print."""
    for bench in BENCHES:
        subprocess.run([sys.executable, "-m", *f"benchmarks.{bench}".split()], check=True)


if __name__ == "__main__":
    main()
