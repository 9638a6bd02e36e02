"""``python -m fuzz [--seconds 60] [--jobs N] [--keep]``: search for inputs that decoders do not expect, with atheris.

Each input begins with the number of a decoder (decoders.py). The search begins with the samples and what is kept in
``fuzz/corpus``, changes inputs both blindly and as CBOR or JSON, and follows what reaches new code. It ends with exit
code 1 and the input when something comes out that the decoder's contract does not name; pin that as a test in
``tests/test_fuzz_findings.py``. ``--keep`` adds inputs that were hard to find to the corpus.

Needs the dependency group ``fuzz``.
"""

import argparse
import hashlib
import logging
import multiprocessing
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["poolnet", "poolnet_cli"]):
    from fuzz.corpus import CORPUS, MAX_KEPT_BYTES, MAX_KEPT_INPUTS, read_corpus
    from fuzz.decoders import BY_NUMBER, DECODERS, Decoder
    from fuzz.mutations import mutate

_MAX_INPUT_BYTES = 4096
#: How the names of files begin that hold what was not expected; they are put where this is run.
_FOUND = "fuzz-found-"
#: How often an input is changed as CBOR or JSON, the other times as the search likes.
_STRUCTURED = 0.5
#: Databases are too large to be searched like that; tests change them in their own way.
_SEARCHED = [decoder for decoder in DECODERS if len(decoder.samples[0]) < _MAX_INPUT_BYTES]
#: The disk is a thousand times slower, so of these one input in so many is tried.
_SLOW_SHARE = 50


def search(seconds: int, seed: int, found: Path, known: Path) -> None:
    """Search in this process, which ends with it; begin with `known`, put what reaches new code into `found`."""
    logging.disable()  # each damaged file would be told
    arguments = [
        sys.argv[0],
        str(found),
        str(known),
        str(CORPUS),
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={_MAX_INPUT_BYTES}",
        f"-artifact_prefix={Path.cwd()}/{_FOUND}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    atheris.Setup(arguments, _try_one, custom_mutator=_mutate)
    atheris.Fuzz()


def keep(found: list[Path]) -> None:
    """Add the inputs that were the last to reach new code, so the hardest to find, to the corpus, which stays small."""
    counts = Counter(data[0] for data in read_corpus())
    paths = sorted((path for place in found for path in place.iterdir()), key=lambda path: -path.stat().st_mtime_ns)
    for path in paths:
        data = path.read_bytes()
        if _decoder_of(data) and len(data) <= MAX_KEPT_BYTES and counts[data[0]] < MAX_KEPT_INPUTS:
            counts[data[0]] += 1
            (CORPUS / path.name).write_bytes(data)


def _try_one(data: bytes) -> None:
    decoder = _decoder_of(data)
    if decoder is not None:
        try:
            decoder.accepts(data[1:])
        except Exception:
            # libFuzzer keeps what crashes a process, and of what raises in Python not always
            _artifact(data).write_bytes(data)
            raise


def _artifact(data: bytes) -> Path:
    path = Path.cwd() / f"{_FOUND}{hashlib.blake2b(data, digest_size=8).hexdigest()}"
    print(f"kept in {path}", file=sys.stderr)
    return path


def _samples() -> list[bytes]:
    return [bytes([decoder.number]) + sample for decoder in _SEARCHED for sample in decoder.samples]


def _decoder_of(data: bytes) -> Decoder | None:
    decoder = BY_NUMBER.get(data[0]) if data else None
    return decoder if decoder in _SEARCHED else None


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    rng = Random(seed)
    decoder = _decoder_of(data)
    if decoder is None or rng.random() < 0.02:
        decoder = rng.choice(_SEARCHED)
        if decoder.is_slow and rng.randrange(_SLOW_SHARE):
            decoder = rng.choice([each for each in _SEARCHED if not each.is_slow])
        return (bytes([decoder.number]) + rng.choice(decoder.samples))[:max_size]
    if rng.random() < _STRUCTURED:
        changed = mutate(seed, (data[1:], *decoder.samples[:1]))
    else:
        changed = atheris.Mutate(data[1:max_size], max_size)
    return (data[:1] + changed)[:max_size]


def main() -> int:
    """Search in several processes, return 1 if one has found something."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description="Search for inputs that decoders do not expect."
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--seed", type=int, default=1, help="of the first process; the others count on from it")
    parser.add_argument("--keep", action="store_true", help="add what reaches new code to fuzz/corpus")
    options = parser.parse_args()
    CORPUS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="poolnet-fuzz-") as directory:
        known, *found = [Path(directory) / str(number) for number in range(options.jobs + 1)]
        for place in (known, *found):
            place.mkdir()
        for number, data in enumerate(_samples()):
            (known / str(number)).write_bytes(data)
        start = multiprocessing.get_context("fork").Process
        jobs = [
            start(target=search, args=(options.seconds, options.seed + number, place, known))
            for number, place in enumerate(found)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        if any(job.exitcode for job in jobs):
            return 1
        if options.keep:
            keep(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
