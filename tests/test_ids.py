"""Ids in text form, and the check character that people compare."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.errors import WireError
from poolnet.ids import DeviceId, decode_id_untrusted, encode_id, format_device_id, short_id

ids = st.binary(min_size=32, max_size=32)
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


@given(ids)
def test_an_id_survives_being_written_and_read(value: bytes) -> None:
    text = encode_id(value)
    assert len(text) == 52
    assert decode_id_untrusted(text) == value
    assert decode_id_untrusted(text.upper()) == value
    assert text.startswith(short_id(value))


@given(st.text(max_size=60) | st.text(alphabet=ALPHABET + "ıſK=", min_size=52, max_size=52))
def test_a_text_is_an_id_or_raises_only_a_wire_error(text: str) -> None:
    try:
        value = decode_id_untrusted(text)
    except WireError:
        return
    assert encode_id(value) == text.lower()


def test_an_id_with_stray_bits_at_its_end_is_refused() -> None:
    with pytest.raises(WireError, match="stray bits"):
        decode_id_untrusted("a" * 51 + "b")


@given(ids, st.integers(0, 51), st.sampled_from(ALPHABET))
def test_the_check_character_notices_any_single_wrong_character(value: bytes, place: int, char: str) -> None:
    right = format_device_id(DeviceId(value))
    text = right[:-2].replace("-", "")
    wrong = text[:place] + char + text[place + 1 :]
    if wrong != text:
        assert _check(wrong) != right[-1]


@given(ids, st.integers(0, 50))
def test_the_check_character_notices_swapped_neighbours_unless_they_differ_by_16(value: bytes, place: int) -> None:
    right = format_device_id(DeviceId(value))
    text = right[:-2].replace("-", "")
    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    distance = abs(ALPHABET.index(text[place]) - ALPHABET.index(text[place + 1]))
    assert (_check(swapped) == right[-1]) == (distance in (0, 16))


def test_a_device_id_is_shown_in_groups_of_four() -> None:
    groups = format_device_id(DeviceId(bytes(32))).split("-")
    assert groups == ["aaaa"] * 13 + ["a"]


def _check(text: str) -> str:
    """The check character of 52 characters, by the definition in the docstring."""
    return ALPHABET[sum((2 * place + 1) * ALPHABET.index(char) for place, char in enumerate(text)) % 32]
