import itertools
import os
from pathlib import Path

from excise.custody.finding import Finding, Reason, weightiest

REASONS = [
    Reason(what="a cache", why="200 lines", certainty="likely", lists_rows=True),
    Reason(what="the original network", why="equal", certainty="sure"),
    Reason(what="a strange file", why="damaged", certainty="unknown"),
]


def test_the_surest_reason_speaks_first_in_whatever_order_they_came():
    for order in itertools.permutations(REASONS):
        found = weightiest(list(order))
        assert (found.what, found.certainty, found.lists_rows) == ("the original network", "sure", True)
        assert found.why.startswith("equal; besides, a cache: 200 lines; besides, a strange file: damaged")


def test_no_reason_is_none_and_one_stays_as_it_is():
    assert weightiest([]) is None
    assert weightiest(REASONS[:1]) == REASONS[0]


def test_a_finding_carries_every_word_of_its_reason():
    found = Finding.of(Path("a/b"), REASONS[0], "f" * 64, 3, own=True)
    assert found == Finding(
        path="a/b",
        what="a cache",
        why="200 lines",
        certainty="likely",
        sha256="f" * 64,
        num_bytes=3,
        own=True,
        link=False,
        lists_rows=True,
    )


def test_a_name_that_is_no_utf8_stands_in_the_reason_by_its_escape():
    told = Reason(what="a list", why=f"{os.fsdecode(b'bad' + bytes([255]))}: 3", certainty="sure")
    assert Finding.of(Path("a"), told, "", 0).why == "bad\\udcff: 3"
