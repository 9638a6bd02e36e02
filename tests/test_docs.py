"""docs/protocol.md says what the code does: every frame, kind and field, and every limit with its value."""

import re
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import attrs
import pytest

import poolnet.wire
from poolnet import limits
from poolnet.identity.statements import STATEMENT_LABEL, StatementBody
from poolnet.identity.user import USER_LABEL
from poolnet.net.quic_settings import ALPN
from poolnet.protocol.hash_tree import TreeBuilder, hash_chunk
from poolnet.protocol.link_auth import LABEL as LINK_LABEL
from poolnet.wire.bodies import Body
from poolnet.wire.framing import Frame, encode_frame
from poolnet.wire.link_frames import Credit
from poolnet.wire.message import MESSAGE_LABEL
from poolnet.wire.signal import Signal

DOCUMENT = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in DOCUMENT.splitlines() if line[:1] == "|"]
#: What a unit in the table of limits stands for.
UNITS: dict[str, int | Fraction] = {
    "": 1,
    "s": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "TiB": 2**40,
    "days": 24 * 3600,
    "a second": 1,
    "a minute": Fraction(1, 60),
    "an hour": Fraction(1, 3600),
}


def frame_modules() -> list[ModuleType]:
    paths = Path(poolnet.wire.__file__).parent.glob("*_frames.py")
    return [import_module(f"poolnet.wire.{path.stem}") for path in sorted(paths)]


def frame_classes() -> list[type[Frame]]:
    found = {
        value
        for module in frame_modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Frame) and "FRAME_TYPE" in vars(value)
    }
    return sorted(found, key=lambda cls: cls.FRAME_TYPE)


def field_names(cls: Any) -> list[str]:
    return [field.name for field in attrs.fields(cls) if "wire" in field.metadata]


def code_words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def cited_limits() -> dict[str, str]:
    rows = [row for row in ROWS if len(row) == 3 and re.fullmatch(r"`[A-Z][A-Z0-9_]+`", row[0])]
    return {row[0].strip("`"): row[1] for row in rows}


def read_value(text: str) -> Any:
    if ", " in text:
        return tuple(int(part) for part in text.split(", "))
    number, _, unit = text.partition(" ")
    return Fraction(number) * UNITS[unit]


@pytest.mark.parametrize("cls", frame_classes(), ids=lambda cls: cls.__name__)
def test_every_frame_has_a_row_with_its_number_its_name_and_its_fields(cls: type[Frame]) -> None:
    found = [row for row in ROWS if row[:2] == [str(cls.FRAME_TYPE), f"`{cls.__name__}`"]]
    assert len(found) == 1
    fields = " ".join(found[0][2:-1])  # between the name and the meaning
    assert code_words(fields) == field_names(cls)


def test_no_row_describes_a_frame_that_is_not_there() -> None:
    described = {(row[0], row[1].strip("`")) for row in ROWS if row[0].isdecimal() and row[1][:1] == "`"}
    assert described == {(str(cls.FRAME_TYPE), cls.__name__) for cls in frame_classes()}


@pytest.mark.parametrize("cls", [*get_args(Body), *get_args(StatementBody)], ids=lambda cls: f"{cls.__name__}")
def test_every_kind_of_message_and_statement_has_a_row_with_its_fields(cls: Any) -> None:
    found = [row for row in ROWS if row[0] == f"`{cls.KIND}`" and code_words(row[1]) == field_names(cls)]
    assert len(found) == 1


def test_the_fields_of_a_signal_are_described_in_order() -> None:
    first = next(index for index, row in enumerate(ROWS) if row[0] == "`session`")
    names = field_names(Signal)
    assert [row[0].strip("`") for row in ROWS[first : first + len(names)]] == names


def test_every_limit_has_the_value_that_the_table_says() -> None:
    table = cited_limits()
    wrong = {
        name: text
        for name, text in table.items()
        if not hasattr(limits, name) or read_value(text) != _exact(getattr(limits, name))
    }
    assert table
    assert not wrong


def test_every_limit_that_is_mentioned_is_in_the_table() -> None:
    mentioned = {word for word in code_words(DOCUMENT) if re.fullmatch(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", word)}
    assert mentioned - {"STOP_SENDING"} <= cited_limits().keys()


@pytest.mark.parametrize("label", [ALPN, LINK_LABEL, MESSAGE_LABEL, STATEMENT_LABEL, USER_LABEL])
def test_every_label_is_spelled_as_in_the_code(label: str) -> None:
    assert f'"{label}"' in DOCUMENT or f"`{label}`" in DOCUMENT


@pytest.mark.parametrize("content", [b"", b"poolnet", bytes(300_000)], ids=["empty", "one chunk", "two chunks"])
def test_the_test_vectors_of_file_ids_are_right(content: bytes) -> None:
    builder = TreeBuilder()
    for start in range(0, len(content), limits.CHUNK_SIZE):
        builder.add(hash_chunk(content[start : start + limits.CHUNK_SIZE]))
    assert f"`{builder.finish(len(content))[0].hex()}`" in DOCUMENT


def test_the_example_of_a_frame_is_right() -> None:
    encoded = encode_frame(Credit(control_bytes=300, chunks=2)).hex()
    assert encoded in re.sub(r"\s", "", DOCUMENT)


def _exact(value: Any) -> Any:
    """Return a limit as the table can say it: rates are floats there and fractions here."""
    return Fraction(value).limit_denominator(10_000) if isinstance(value, float) else value
