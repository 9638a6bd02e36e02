"""Whom a text calls by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.ids import DeviceId
from poolnet.limits import MAX_MENTIONS
from poolnet.protocol.mentions import find_mentions

ADA, BOB, BOB_TOO, BOBBY = (DeviceId(bytes([number]) * 32) for number in range(1, 5))
NAMES = {ADA: "Ada Lovelace", BOB: "bob", BOB_TOO: "Bob", BOBBY: "bobby"}


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("hello", ()),
        ("@ada lovelace, have a look", (ADA,)),
        ("ask @Bobby!", (BOBBY,)),
        ("ask @BOB", (BOB, BOB_TOO)),
        ("(@bob) and @bob again", (BOB, BOB_TOO)),
        ("write to bob@bobby", ()),
        ("@bobcat is nobody", ()),
        ("@ada alone is not her name", ()),
        ("@", ()),
        ("@@bobby", (BOBBY,)),
        ("@bobby and then @ada lovelace", (BOBBY, ADA)),
    ],
)
def test_a_name_behind_an_at_sign_calls_all_devices_that_have_it(text: str, called: tuple[DeviceId, ...]) -> None:
    assert find_mentions(text, NAMES) == (called, False)


def test_everyone_is_called_by_all_unless_somebody_is_called_so() -> None:
    assert find_mentions("@ALL: lunch", NAMES) == ((), True)
    assert find_mentions("@all: lunch", {ADA: "All"}) == ((ADA,), False)
    assert find_mentions("@allright", NAMES) == ((), False)


def test_no_more_are_called_than_a_message_may_call() -> None:
    names = {DeviceId(number.to_bytes(32, "big")): "same" for number in range(MAX_MENTIONS + 5)}
    assert len(find_mentions("@same", names)[0]) == MAX_MENTIONS


@given(st.text(), st.dictionaries(st.binary(min_size=32, max_size=32).map(DeviceId), st.text(min_size=1), max_size=5))
def test_any_text_and_names_call_only_those_whose_names_are_in_it(text: str, names: dict[DeviceId, str]) -> None:
    called, _ = find_mentions(text, names)
    assert all("@" + names[device].casefold() in text.casefold() for device in called)
