"""One transfer to N receivers at once, its figures as one JSON line in the form that other tools' runs are told in.

python -m benchmarks.peer SIZE_MIB RECEIVERS [--quic]
"""

import argparse
import json

import trio

from benchmarks.transfer import transfer
from poolnet.limits import MIB


async def run(size_mib: int, receivers: int, tcp: bool) -> dict[str, object]:
    """Transfer once; return the figures."""
    row = await transfer(size_mib, receivers, tcp=tcp)
    size = size_mib * MIB
    sender_cpu_s = row["seeder_cpu_s_per_gib"] * size_mib / 1024
    return {
        "peer": "poolnet",
        "size_mib": size_mib,
        "receivers": receivers,
        "seconds": row["seconds"],
        "mib_per_s": row["mib_per_s"],
        "agg_mib_per_s": row["aggregate_mib_per_s"],
        "sender_cpu_s": round(sender_cpu_s, 2),
        "receivers_cpu_s": round(row["cpu_s_per_delivered_gib"] * size_mib * receivers / 1024 - sender_cpu_s, 2),
        "sender_bytes_out": round(row["seeder_files_out"] * size),
        "max_rss_mb": max(row["seeder_peak_rss_mib"], row["receivers_peak_rss_mib"]),
        "encrypted": True,
        "verified": True,
        "notes": f"file to file, every chunk verified, over {'/'.join(row['carriers'])}",
    }


def main() -> None:
    """Read the arguments, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size_mib", type=int)
    parser.add_argument("receivers", type=int)
    parser.add_argument("--quic", action="store_true", help="chunks over QUIC alone")
    args = parser.parse_args()
    print(json.dumps(trio.run(run, args.size_mib, args.receivers, not args.quic)))


if __name__ == "__main__":
    main()
