"""A sparse truth that was planted is found; what cannot be fitted is refused."""

import pytest
import torch

from excise import errors
from excise.attribution import Answers, Observed, from_observed
from tests.attribution.planted import linear


def sparse_beta():
    beta = torch.zeros(8, 8, 1)
    beta[[1, 6, 4], [0, 0, 2], 0] = torch.tensor([2.0, -1.5, 1.0])
    return beta


def test_a_sparse_truth_is_recovered():
    beta = sparse_beta()
    observed = linear(48, beta, 0.05)
    model = from_observed(observed, by="sparse")
    found = torch.stack([model.effects(one, model.train) for one in model.train.split(1)])
    torch.testing.assert_close(found, beta.double(), rtol=0, atol=0.06)  # the noise, and what the penalty takes off
    means = from_observed(observed, shrink=False)
    other = torch.stack([means.effects(one, means.train) for one in means.train.split(1)])
    assert (found - beta).square().mean() < 0.1 * (other - beta).square().mean()
    assert model.made.by == "sparse" and model.shrink == from_observed(observed, by="sparse", shrink=True).shrink
    torch.testing.assert_close(model.parts["train"].base, observed.answers["train"].logits.mean(1), rtol=0, atol=0.05)


def test_margins_are_regressed_as_well():
    beta = torch.cat([sparse_beta(), -sparse_beta()], dim=2)[:, :3]
    observed = linear(48, sparse_beta().repeat(1, 1, 2) * torch.tensor([1.0, -1.0]), 0.02)
    few = Observed(observed.keep, {"train": observed.answers["train"]})
    found = from_observed(few, by="sparse").matrix(torch.tensor([0, 4]))
    wanted = 2 * sparse_beta()[:, [0, 2], 0].T.double()
    assert beta.shape == (8, 3, 2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.08)


@pytest.mark.parametrize(
    ("num_models", "most", "said"),
    [(6, 2**24, "at least 8 networks, two a fold, found 6"), (8, 10, "at most 10 coefficients, found 16")],
)
def test_what_is_too_small_or_too_large_is_refused(num_models, most, said, monkeypatch):
    monkeypatch.setattr("excise.attribution.sparse.LARGEST", most)
    observed = Observed(
        torch.ones(num_models, 4, dtype=torch.bool), {"train": Answers(torch.arange(4), torch.zeros(4, num_models, 1))}
    )
    with pytest.raises(errors.BadRequest, match=f"sparse: expected {said}"):
        from_observed(observed, by="sparse")
