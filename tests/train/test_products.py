"""Multiplications, counted by hand."""

import pytest
import torch
from torch import nn

from excise.masks import Mask
from excise.networks import resnet18
from excise.train import enforced
from excise.train.prefix import cut
from excise.train.products import most_products
from tests.cases import CASES


class Attending(nn.Module):
    """Products with weights by hand, and of tensors with each other."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(11, 8), nn.Linear(8, 4)
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, tokens):
        hidden = nn.functional.linear(self.table(tokens), self.weight)
        return self.last((hidden @ hidden.transpose(1, 2) @ hidden).mean(1))


COUNTED = {
    "mlp": (CASES["mlp"].make, "4", CASES["mlp"].data(3)[0], 6 * 10 + 10 * 8, 8 * 4),
    # 3 x 3 over 5 x 5 places, from 2 channels; then 6 groups of one channel each, and 1 x 1
    "separable": (CASES["separable"].make, "7", CASES["separable"].data(3)[0], 25 * (18 * 6 + 9 * 6 + 6 * 8), 8 * 4),
    # five tokens; each product of tokens is 5 x 5 x 8; a table is looked up and not multiplied with
    "attending": (Attending, "last", torch.zeros(3, 5, dtype=torch.int64), 5 * 8 * 8 + 2 * 5 * 5 * 8, 8 * 4),
}


@pytest.mark.parametrize("name", COUNTED)
def test_multiplications_are_those_of_the_products(name):
    make, last, inputs, before, behind = COUNTED[name]
    model = make()
    with enforced(model, Mask.of_modules(model, [last]), "follow-mask"):
        found = cut(model, inputs)
    assert found.products == before
    assert found.share == pytest.approx(before / (before + behind), rel=1e-12)


def test_the_bound_holds_and_needs_no_forward_pass():
    for name in ("mlp", "separable"):
        make, _, inputs, before, behind = COUNTED[name]
        assert before + behind <= most_products(make(), inputs[:1]) < 100 * (before + behind)


def test_resnet18_does_most_of_its_work_before_its_last_block():
    with torch.device("meta"):
        bound = most_products(resnet18(10), torch.zeros(1, 3, 32, 32))
    assert bound >= 556_651_520 + 5_120  # what its convolutions and its head multiply
