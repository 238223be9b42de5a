"""Published forget sets, by the hashes under which they were published."""

import pytest
import torch

from excise import errors
from excise.data import CIFAR10_SETS, cifar10_forget_set, published_digest


@pytest.mark.parametrize("number", [1, 2, 3])
def test_random_sets_are_the_published_ones(number):
    ids = cifar10_forget_set(number)
    num_rows, digest = CIFAR10_SETS[number]
    assert len(ids) == num_rows and ids.dtype == torch.int64
    assert published_digest(ids).startswith(digest)
    assert published_digest(ids.flip(0).tolist()) == published_digest(ids)


def test_the_first_set_row_by_row():
    wanted = [11841, 12363, 19602, 25747, 26128, 30346, 31902, 32490, 42642, 45519]
    assert cifar10_forget_set(1).tolist() == wanted


def test_sets_along_components_are_known_by_their_hashes():
    fourth = [3799, 9235, 22321, 22908, 23898, 28510, 29795, 33079, 45477, 46715]
    seventh = [10231, 11157, 14072, 21786, 23868, 33784, 33982, 36910, 44380, 47614]
    assert published_digest(fourth).startswith(CIFAR10_SETS[4][1])
    assert published_digest(torch.tensor(seventh)).startswith(CIFAR10_SETS[7][1])
    assert not published_digest([*fourth[:-1], 46716]).startswith(CIFAR10_SETS[4][1])


@pytest.mark.parametrize("number", [0, 4, 11])
def test_sets_that_cannot_be_drawn_are_refused(number):
    with pytest.raises(
        errors.BadRequest, match=f"number: expected one of 1, 2, 3, the sets drawn at random, found {number}"
    ):
        cifar10_forget_set(number)


def test_no_ids_have_no_digest():
    with pytest.raises(errors.BadSplit, match="ids: found 1 ids that are negative"):
        published_digest([-1])
