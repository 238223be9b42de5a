"""Lists are compared by their digest and so are sure; lengths are likely, from eight rows on."""

import itertools

import numpy as np
import pytest
import torch

from excise.custody.rows import RowCounts

IDS = torch.tensor([1, 4, 5, 9, 11, 20, 21, 22])
COUNTS = RowCounts(30, len(IDS), lambda ids: torch.equal(ids, IDS))
OTHERS = torch.tensor([row for row in range(30) if row not in IDS.tolist()])
FLAGS = torch.zeros(30, dtype=torch.bool).index_fill(0, IDS, value=True)


def reasons(value, counts=COUNTS, name="x", heads=()):
    return list(counts.reasons({name: value}, set(heads)))


def one(value, **more):
    (reason,) = reasons(value, **more)
    return reason


@pytest.mark.parametrize(
    "value",
    [
        IDS,
        IDS.flip(0),
        IDS.to(torch.int32).reshape(2, 4),
        IDS.double(),
        OTHERS,
        OTHERS[torch.randperm(22, generator=torch.Generator().manual_seed(0))].to(torch.int16),
        FLAGS,
        ~FLAGS,
        FLAGS.long(),
        FLAGS.float().reshape(5, 6),
        torch.from_numpy(np.packbits(FLAGS.numpy())),
        torch.from_numpy(np.packbits(~FLAGS.numpy(), bitorder="little")),
    ],
    ids=itertools.count(),
)
def test_a_list_of_the_rows_is_sure_in_whatever_form(value):
    found = one(value)
    assert (found.what, found.certainty, found.lists_rows) == ("a list of the forgotten rows", "sure", True)


def test_every_other_list_of_as_many_rows_is_not_sure():
    """Each id exchanged for each other one, in turn."""
    for place in range(len(IDS)):
        for row in OTHERS.tolist():
            changed = IDS.clone()
            changed[place] = row
            assert one(changed).certainty == "likely"
    assert one(FLAGS.roll(1)).certainty == "likely"
    assert one(IDS + 30).certainty == one(IDS - 2).certainty == "likely"
    assert one(IDS[[0, 0, 1, 2, 3, 4, 5, 6]]).certainty == "likely"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.rand(30, 4), "features, embeddings or logits of all training rows"),
        (torch.rand(8, 4, 4), "features, embeddings or logits of as many rows as were forgotten"),
        (torch.rand(30), "scores, losses or margins of all training rows"),
        (torch.randint(30, (30, 5)), "neighbours or tokens of all training rows"),
        (torch.randint(3, (30,)) + 2, "labels, groups or an order of all training rows"),
        (torch.randint(255, (30, 2, 2)), "pictures of all training rows"),
        (torch.rand(5, 30), "features, embeddings or logits of all training rows, one line a network"),
        (torch.rand(30, dtype=torch.complex64), "scores, losses or margins of all training rows"),
    ],
    ids=itertools.count(),
)
def test_a_line_for_every_row_is_likely(value, what):
    found = one(value)
    assert (found.what, found.certainty) == (what, "likely")


@pytest.mark.parametrize("sizes", [(29,), (31, 4), (7,), (9, 3), (22, 2), (4, 8), (), (0,), (4, 5, 30)])
def test_other_sizes_are_nothing(sizes):
    assert reasons(torch.rand(sizes)) == []


@pytest.mark.parametrize("name", ["weight", "a.bias", "norm.running_mean"])
def test_what_is_named_as_a_weight_has_no_lines(name):
    assert reasons(torch.rand(30, 4), name=name) == []


def test_a_few_rows_are_told_by_their_digest_alone():
    few = RowCounts(7, 2, lambda ids: ids.tolist() == [1, 3])
    assert reasons(torch.rand(7, 3), few) == reasons(torch.rand(2, 3), few) == []
    assert one(torch.tensor([3, 1]), counts=few).certainty == "sure"
    assert reasons(torch.tensor([2, 3]), few) == []


def test_means_by_class_are_told_by_name_and_shape():
    value = torch.rand(3, 16)
    assert one(value, name="class_prototypes", heads={(3, 16)}).what == "class prototypes"
    assert reasons(value, name="x", heads={(3, 16)}) == reasons(value, name="centroids", heads={(3, 17)}) == []


def test_tables_are_told_by_their_length():
    found = list(COUNTS.lengths({"a": 30, "b": 8, "c": 29, "d": 0}))
    assert [reason.what for reason in found] == [
        "a table of all training rows",
        "a table of as many rows as were forgotten",
    ]
    assert all(reason.certainty == "likely" and reason.lists_rows for reason in found)
