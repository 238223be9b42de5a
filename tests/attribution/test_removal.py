"""What effects that add can and cannot say: removal from a general least-squares fit, where the truth is a formula."""

import pytest
import torch
from torch import nn

from excise.attribution import Datamodel, DirectPredictor, Made, Part

DRAWS = torch.Generator().manual_seed(8)
INPUTS = torch.randn(20, 4, generator=DRAWS, dtype=torch.float64)
OUTPUTS = torch.randn(20, 3, generator=DRAWS, dtype=torch.float64)
FORGET = torch.tensor([2, 3, 11])


def fitted(weights):
    """The least-squares fit with a weight a row, by the equations and no formula of removal."""
    root = weights.sqrt()[:, None]
    return torch.linalg.lstsq(root * INPUTS, root * OUTPUTS).solution


def without(share):
    """What is left of each row where a share of the forget rows is taken away."""
    return torch.ones(20, dtype=torch.float64).index_fill_(0, FORGET, 1 - share)


def leverages():
    inverse = torch.linalg.inv(INPUTS.T @ INPUTS)
    hat = INPUTS @ inverse @ INPUTS.T
    return inverse, hat, OUTPUTS - hat @ OUTPUTS


def together(share):
    """f - x' A^-1 X_F' (I / share - H_FF)^-1 e_F: the forget rows taken away as a group."""
    inverse, hat, residuals = leverages()
    inner = torch.eye(3, dtype=torch.float64) / share - hat[FORGET][:, FORGET]
    return INPUTS @ (fitted(without(0)) - inverse @ INPUTS[FORGET].T @ torch.linalg.solve(inner, residuals[FORGET]))


def one_by_one(share, forget=FORGET):
    """The datamodel of the exact effects of each row alone, added up by the library."""
    inverse, hat, residuals = leverages()
    alone = residuals / (1 / share - hat.diagonal())[:, None]
    beta = torch.einsum("xd,de,ie,ic->xic", INPUTS, inverse, INPUTS, alone)
    part = Part(torch.arange(20), torch.zeros(20, 3), beta)
    model = Datamodel(weights=torch.eye(20), parts={"train": part}, made=Made(by="one by one"))
    network = nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        network.weight.copy_(fitted(without(0)).T)
    return DirectPredictor(network, model, forget).forward_indexed(INPUTS, torch.arange(20))


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_group_formula_is_a_refit(share):
    torch.testing.assert_close(together(share), INPUTS @ fitted(without(share)), rtol=0, atol=1e-12)


def test_effects_that_add_miss_what_rows_do_together_and_that_is_of_second_order():
    gaps = [float((one_by_one(share) - together(share)).norm()) for share in (1.0, 1e-2, 5e-3, 2.5e-3)]
    assert gaps[0] > 0.01 * float((together(1.0) - together(1e-9)).norm())
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.02)
    assert gaps[2] / gaps[3] == pytest.approx(4, rel=0.01)


def test_of_one_row_they_miss_nothing():
    kept = torch.ones(20, dtype=torch.float64).index_fill_(0, FORGET[:1], 0)
    torch.testing.assert_close(one_by_one(1.0, FORGET[:1]), INPUTS @ fitted(kept), rtol=0, atol=1e-12)
