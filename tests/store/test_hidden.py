import re

import pytest

from excise import errors
from excise.store.hidden import hide, reveal

TEXTS = ("", "ids.txt", "rows of Jane Doe.npy", "ä/ö" * 50, "x" * 64, "\udcff.txt")


@pytest.fixture(autouse=True)
def _key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("text", TEXTS)
def test_what_was_hidden_is_read_back(text):
    assert reveal(hide(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_text_gives_the_same_word_and_the_word_holds_nothing_of_it(text):
    word = hide(text)
    assert word == hide(text) and re.fullmatch(r"hidden:[0-9a-f]+", word)
    assert len(text) < 7 or text.encode("utf-8", "surrogateescape")[:7].hex() not in word


def test_lengths_within_64_bytes_look_alike():
    assert len({len(hide("x" * size)) for size in range(64)}) == 1
    assert len(hide("x" * 64)) > len(hide("x" * 63))


def test_texts_that_differ_in_one_letter_share_no_byte_of_the_stream():
    one, other = (bytes.fromhex(hide(text).removeprefix("hidden:")) for text in ("a" * 63, "a" * 62 + "b"))
    same = sum(left == right for left, right in zip(one, other, strict=True))
    assert same < 8  # of 80; with one stream for both it would be 63


@pytest.mark.parametrize("place", [7, 20, 60, -1])
def test_a_changed_word_is_not_read(place):
    letters = list(hide("rows of Jane Doe.npy"))
    letters[place] = "0" if letters[place] != "0" else "1"
    with pytest.raises(errors.BadRequest, match="cannot be read with it; name the file again"):
        reveal("".join(letters))


@pytest.mark.parametrize("word", ["", "hidden:", "ids.txt", "hidden:zz", "hidden:" + "00" * 80, "00" * 80])
def test_what_was_never_hidden_is_not_read(word):
    with pytest.raises(errors.BadRequest, match="expected a path that was hidden in the record"):
        reveal(word)


def test_another_key_reads_nothing(tmp_path, monkeypatch):
    word = hide("ids.txt")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert hide("ids.txt") != word
    with pytest.raises(errors.BadRequest, match="under the key of this machine and user"):
        reveal(word)
