"""Copies of forget rows: exact ones, near ones, and none."""

import pytest
import torch

from excise import Split
from excise.diagnosis import copies
from excise.diagnosis import rows as data
from excise.diagnosis.neighbours import MAX_OTHERS, MAX_QUERIES
from excise.train.hooks import Hooks

DRAWS = torch.Generator().manual_seed(0)
INPUTS, UNSEEN = torch.randn(120, 6, generator=DRAWS), torch.randn(40, 6, generator=DRAWS)
LABELS = torch.arange(120) % 3
FORGET = [3, 10, 20, 30]


def taken(inputs=INPUTS, labels=LABELS, unseen=UNSEEN):
    test = (unseen, torch.arange(len(unseen)) % 3)
    return data.census(Split((inputs, labels), forget=FORGET, test=test), 0, Hooks())


def changed(tensor, place, value):
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


def test_the_healthy_have_none():
    assert copies.exact(taken()) == copies.near(taken()) == []


def test_an_exact_copy_in_retain():
    found = taken(changed(INPUTS, 61, INPUTS[10]))  # 61 and 10 are of one class
    (one,) = copies.exact(found)
    assert one.where == "1 of 4 forget rows (position 1)" and one.severity == "warning"
    assert "exactly, in retain:" in one.what and "another label" not in one.what and "forget the copies" in one.remedy
    assert copies.near(found) == []  # said once


def test_a_copy_with_another_label():
    (one,) = copies.exact(taken(changed(INPUTS, 62, INPUTS[10])))
    assert "in retain (1 row of them with another label):" in one.what


def test_exact_copies_in_test():
    (one,) = copies.exact(taken(unseen=changed(UNSEEN, [5, 7, 8], INPUTS[[20, 30, 30]])))
    assert one.where == "2 of 4 forget rows (positions 2, 3)" and "exactly, in test" in one.what
    assert one.remedy == "leave the copies out of the test set"


@pytest.mark.parametrize(("noise", "number"), [(1e-4, 1), (0.02, 1), (1.0, 0)])
def test_a_near_copy(noise, number):
    near = INPUTS[10] + noise * torch.tensor([1.0, -1, 1, -1, 1, -1])
    found = taken(changed(INPUTS, 61, near), unseen=changed(UNSEEN, 4, near))
    assert copies.exact(found) == []
    told = copies.near(found)
    assert [one.where for one in told] == ["1 of 4 forget rows (position 1)"] * 2 * number
    assert all(part in one.what for part, one in zip(("nearly, in retain", "nearly, in test"), told, strict=False))


def test_where_near_copies_are_common_it_is_said():
    inputs = INPUTS.clone()
    inputs[70:80] = inputs[80:90] + 1e-3
    inputs[61] = inputs[10] + 1e-3
    (one,) = copies.near(taken(inputs))
    assert "of retain rows themselves 17.2 % have one in retain" in one.what  # 20 of 116


def test_tokens_are_compared_exactly():
    tokens = torch.randint(1000, (120, 6), generator=torch.Generator().manual_seed(1))
    assert copies.near(taken(tokens, unseen=tokens[:1] + 1)) == []
    (one,) = copies.exact(taken(changed(tokens, 61, tokens[10]), unseen=tokens[:1] + 1000))
    assert one.where == "1 of 4 forget rows (position 1)"


def test_a_sample_is_said_to_be_one():
    draws = torch.Generator().manual_seed(2)
    inputs = torch.randn(MAX_OTHERS + MAX_QUERIES + 1000, 4, generator=draws)
    inputs[-1] = inputs[0]
    split = Split((inputs, torch.zeros(len(inputs), dtype=torch.int64)), forget=range(MAX_QUERIES + 1))
    found = data.census(split, 0, Hooks())
    (note,) = [one for one in copies.near(found) if one.severity == "note"]
    assert note.where == "2,000 of 2,001 forget rows, 50,000 of 50,999 retain rows"
    assert found.near.num_met == {"retain": MAX_OTHERS} and len(found.near.places) == MAX_QUERIES
    assert 0 in found.copies["retain"]  # exact ones among all rows
