"""Whatever bytes come from outside: every decoder returns a value or raises what it says, at a bounded cost."""

import ast
import functools
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import poolnet
import poolnet_cli
from fuzz import samples
from fuzz.corpus import read_corpus
from fuzz.databases import mutate_database
from fuzz.decoders import BY_NUMBER, DECODERS, Decoder
from fuzz.mutations import DEEP, HOSTILE_CBOR, HOSTILE_JSON, mutate
from poolnet.limits import MAX_FRAME_SIZE
from poolnet.wire import bodies, link_frames, pool_frames, swarm_frames, sync_frames
from poolnet.wire.framing import Frame, UnknownFrame

FAST = [decoder for decoder in DECODERS if not decoder.is_slow]
DATABASES = [decoder for decoder in DECODERS if decoder.samples[0].startswith(b"SQLite")]
SLOW = [decoder for decoder in DECODERS if decoder.is_slow and decoder not in DATABASES]
#: What refusing a hostile input may take, however much it declares. The input itself is not counted.
MAX_PEAK_BYTES = 1_000_000
seeds = st.integers(0, 2**32 - 1)
relaxed = functools.partial(settings, suppress_health_check=[HealthCheck.too_slow])


def by_name(decoder: Decoder) -> str:
    return decoder.name.replace(" ", "-")


@pytest.mark.parametrize("decoder", DECODERS, ids=by_name)
def test_samples_are_what_the_decoder_takes(decoder: Decoder) -> None:
    assert all(map(decoder.accepts, decoder.samples))


@pytest.mark.parametrize("decoder", FAST, ids=by_name)
@relaxed(max_examples=250)
@given(seed=seeds)
def test_a_changed_encoding_is_decoded_or_refused_as_documented(decoder: Decoder, seed: int) -> None:
    data = mutate(seed, decoder.samples)
    note(f"input: {data[:2000]!r}")
    decoder.accepts(data)


@pytest.mark.parametrize("decoder", FAST, ids=by_name)
@relaxed(max_examples=50)
@given(data=st.binary(max_size=200))
def test_garbage_is_refused_as_documented(decoder: Decoder, data: bytes) -> None:
    decoder.accepts(data)


@pytest.mark.parametrize("decoder", SLOW, ids=by_name)
@relaxed(max_examples=40)
@given(seed=seeds)
def test_a_changed_file_is_read_or_refused_as_documented(decoder: Decoder, seed: int) -> None:
    data = mutate(seed, decoder.samples)
    note(f"input: {data[:2000]!r}")
    decoder.accepts(data)


@pytest.mark.parametrize("decoder", DATABASES, ids=by_name)
@relaxed(max_examples=40)
@given(seed=seeds)
def test_a_database_with_wrong_values_or_tables_is_read_or_refused_as_documented(decoder: Decoder, seed: int) -> None:
    decoder.accepts(mutate_database(seed, decoder.samples[0]))


@pytest.mark.parametrize("decoder", DATABASES, ids=by_name)
@relaxed(max_examples=15)
@given(seed=seeds)
def test_a_database_with_damaged_pages_is_read_or_refused_as_documented(decoder: Decoder, seed: int) -> None:
    decoder.accepts(mutate(seed, decoder.samples))


@pytest.mark.parametrize("decoder", [each for each in DECODERS if each not in DATABASES], ids=by_name)
def test_what_declares_much_or_nests_deep_costs_little(decoder: Decoder) -> None:
    """Lengths of 2^32 and 2^64 without content, 10 000 levels: alone, and where the content of a sample should be."""
    for hostile in hostile_inputs(decoder):
        decoder.accepts(hostile)  # what is imported or cached on the first use is not counted
        peak = min(peak_of(decoder, hostile) for _ in range(3))  # nor what else goes on in this process
        assert peak < MAX_PEAK_BYTES + 3 * len(hostile), hostile[:40]


def peak_of(decoder: Decoder, data: bytes) -> int:
    """Return how many bytes were allocated at a time."""
    tracemalloc.start()
    try:
        decoder.accepts(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("decoder", FAST, ids=by_name)
@pytest.mark.parametrize("unit", [b"\x00", b"\x81", b"\x9f", b"\x61a", b"1", b"a.", b"[", b'{"a":', b"%::1", b"\xff"])
def test_the_longest_input_takes_no_quadratic_time(decoder: Decoder, unit: bytes) -> None:
    """64 KiB of one thing after another: some tens of milliseconds, where the square of it would be minutes."""
    begin = time.process_time()
    for first in (b"", decoder.samples[0][:1], decoder.samples[0]):
        decoder.accepts((first + unit * MAX_FRAME_SIZE)[:MAX_FRAME_SIZE])
    assert time.process_time() - begin < 3


def test_every_function_that_takes_untrusted_input_is_reached_from_the_list_of_decoders() -> None:
    """Whoever writes another ``…_untrusted`` has to list it in fuzz/decoders.py, with an example of what it takes."""
    expected = {place for package in (poolnet, poolnet_cli) for place in untrusted_functions(package)}
    clear_caches()
    called = functions_called_by_samples()
    assert len(expected) > 15
    assert expected - called == set()


def test_every_frame_and_every_body_is_among_the_samples() -> None:
    modules = (link_frames, pool_frames, swarm_frames, sync_frames)
    frames = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Frame) and value not in (Frame, UnknownFrame)
    }
    assert {type(frame) for frame in samples.FRAMES} == frames
    kinds = {value.KIND for value in vars(bodies).values() if isinstance(value, type) and hasattr(value, "KIND")}
    assert {body.KIND for body in samples.BODIES} == kinds


def test_what_fuzzing_has_found_interesting_is_decoded_or_refused_as_documented() -> None:
    inputs = read_corpus()
    assert inputs
    for data in inputs:
        BY_NUMBER[data[0]].accepts(data[1:])


def hostile_inputs(decoder: Decoder) -> Iterator[bytes]:
    sample = decoder.samples[0]
    yield b"[" * 10 * DEEP
    for hostile in (*HOSTILE_CBOR, *(text.encode() for text in HOSTILE_JSON)):
        if not decoder.is_slow or len(hostile) > DEEP:
            yield hostile
            yield sample[:1] + hostile
            yield sample[: len(sample) // 2] + hostile
    yield b"\xff\xff\xff\xff" + sample
    yield (2**31).to_bytes(4, "big") + sample


def untrusted_functions(package: Any) -> Iterator[tuple[str, str]]:
    """Yield file and name of each function of a package whose name ends in ``_untrusted``."""
    for path in Path(package.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.endswith("_untrusted"):
                yield str(path), node.name


def functions_called_by_samples() -> set[tuple[str, str]]:
    codes: set[CodeType] = set()

    def take_note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    sys.setprofile(take_note)
    try:
        for decoder in FAST:
            for sample in decoder.samples:
                decoder.accepts(sample)
    finally:
        sys.setprofile(None)
    return {(code.co_filename, code.co_name) for code in codes}


def clear_caches() -> None:
    """Forget what was decoded before: what comes out of a cache calls nothing."""
    for name, module in list(sys.modules.items()):
        if name.startswith("poolnet."):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
