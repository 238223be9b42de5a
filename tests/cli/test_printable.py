import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.cli.printable import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words, Größe, 猫\n\ttab", "plain words, Größe, 猫\n\ttab"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07rest", "rest"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1;2q\x1b\\rest", "rest"),
        ("\x1bcrest", "rest"),
        ("\x1b(Brest", "rest"),
        ("end\x1b", "end"),
        ("a\rb\x08\x00\x7f", r"a\rb\x08\x00\x7f"),
        ("\u202egpj.exe\u2069", r"\u202egpj.exe\u2069"),
        ("a\u200bb\ufeff\u2028", r"a\u200bb\ufeff\u2028"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_sequences_go_and_what_cannot_be_seen_is_spelled_out(text, expected):
    assert printable(text) == expected


@given(st.text(st.characters(blacklist_categories=())))
def test_no_text_keeps_a_control_and_a_clean_one_stays_as_it_is(text):
    found = printable(text)
    assert all(
        one in "\n\t\u200c\u200d" or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in found
    )
    assert printable(found) == found


@given(
    st.lists(st.sampled_from(["\x1b", "[", "]", "P", "3", ";", "m", "\x07", "\\", "\x9b", "\x9d", "a"])).map("".join)
)
def test_sequences_in_any_order_leave_no_escape(text):
    assert not re.search("[\x1b\x07\x80-\x9f]", printable(text))
