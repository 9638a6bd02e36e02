"""What others write cannot act on a terminal, nor hide in it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.printable import printable


def test_plain_text_of_any_language_stays_as_it_is():
    text = "Grüße, 你好, שלום, नमस्ते, ☕️ – “quoted” \\x1b"
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b2J", "\\x9b2J"),
        ("bell\x07 null\x00 delete\x7f", "bell\\x07 null\\x00 delete\\x7f"),
        ("a\nbob: hi\r\t", "a\\nbob: hi\\r\\t"),
        ("line\u2028paragraph\u2029", "line\\u2028paragraph\\u2029"),
        ("invoice\u202efdp.exe", "invoice\\u202efdp.exe"),
        ("\u2066isolate\u2069", "\\u2066isolate\\u2069"),
        ("b\u200bo\u200db\ufeff", "b\\u200bo\\u200db\\ufeff"),
        ("soft\u00adhyphen", "soft\\xadhyphen"),
        ("blank\u3164and\u115f\u2800", "blank\\u3164and\\u115f\\u2800"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("selector\U000e0101", "selector\\U000e0101"),
        ("lone\ud800", "lone\\ud800"),
        ("private\ue000", "private\\ue000"),
    ],
)
def test_what_acts_or_hides_is_written_out(text: str, shown: str):
    assert printable(text) == shown


@given(st.text())
def test_nothing_that_acts_is_left(text: str):
    shown = printable(text)
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert printable(shown) == shown
