import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.cli.wrapping import wrapped


@given(text=st.text(alphabet="ab /\n"), width=st.integers(20, 90))
def test_nothing_is_lost_and_no_word_is_broken(text, width):
    found = wrapped(text, width)
    assert found.split() == text.split()
    assert all(len(line) <= width or len(line.split()) == 1 for line in found.splitlines())


def test_a_path_is_never_broken():
    path = "/a-b/" + "c" * 100 + ".safetensors"
    assert path in wrapped(f"excise: could not write {path} (12 bytes)", 40).splitlines()


@pytest.mark.parametrize("text", ["", "short", "two\nlines", "  indented\n    more", "a\n\nb"])
def test_what_fits_stays(text):
    assert wrapped(text, 40) == text


def test_what_continues_an_indented_line_is_indented():
    assert wrapped("  one two three four five", 20) == "  one two three four\n  five"
