"""Difference in means beside loops and least squares; shrinking beside the truth that was planted."""

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from excise import errors
from excise.attribution import Answers, Made, Observed, from_observed, shrinkage
from tests.attribution.planted import linear

MADE = Made(by="means")


def random_beta(num_train=10, num_classes=3, seed=5):
    return torch.randn(num_train, num_train, num_classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_models", [8, 5])
def test_an_effect_is_the_mean_with_less_the_mean_without(num_models):
    observed = linear(8, random_beta(), 0.5).first(num_models)
    model = from_observed(observed, shrink=False)
    answers = observed.answers["train"]
    for row in range(10):
        inside = observed.keep[:, row]
        wanted = answers.logits[:, inside].double().mean(1) - answers.logits[:, ~inside].double().mean(1)
        found = model.effects(answers.ids[[row]], answers.ids)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # factors are float32
        sure = answers.margins[:, inside].double().mean(1) - answers.margins[:, ~inside].double().mean(1)
        torch.testing.assert_close(model.matrix(answers.ids)[:, row], sure, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.parts["train"].base, answers.logits.mean(1), rtol=0, atol=1e-6)


def orthogonal(beta):
    """Sixteen networks on halves in which rows go in and out independently of one another (a Hadamard design)."""
    keep = torch.from_numpy(hadamard(16)[:, 1 : len(beta) + 1] > 0)
    logits = torch.einsum("mi,ixc->xmc", keep.double(), beta.double())
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    return Observed(keep, {"train": Answers(torch.arange(len(beta)), (logits + 0.1 * noise).float())})


def test_least_squares_and_ridge_are_the_means_where_rows_are_independent():
    observed = orthogonal(random_beta(6))
    found = torch.stack(
        [from_observed(observed, shrink=False).effects(torch.tensor([i]), torch.arange(6)) for i in range(6)]
    )
    inside = observed.keep.double().numpy() - 0.5
    outputs = observed.answers["train"].logits.double().transpose(0, 1).reshape(16, -1).numpy()
    fitted = np.linalg.lstsq(np.column_stack([np.ones(16), inside]), outputs, rcond=None)[0][1:]
    np.testing.assert_allclose(found.numpy().reshape(6, -1), fitted, atol=1e-6)
    ridge = np.linalg.solve(inside.T @ inside + 3.0 * np.eye(6), inside.T @ (outputs - outputs.mean(0)))
    np.testing.assert_allclose(found.numpy().reshape(6, -1) * 4 / (4 + 3.0), ridge, atol=1e-6)  # 16 networks / 4


def test_rows_in_every_half_are_refused():
    observed = linear(8, random_beta(), 0.1)
    inside = Observed(observed.keep.clone().index_fill_(1, torch.tensor([3]), value=True), observed.answers)
    with pytest.raises(
        errors.BadRequest, match="num_models: 1 of 10 rows are in all of the 8 networks' halves, or in none"
    ):
        from_observed(inside)


def test_the_shrinking_factor_is_the_share_that_is_true():
    """With coefficients of variance t^2 and outputs of variance s^2 besides, it is t^2 / (t^2 + 4 s^2 / K), about."""
    num_train, num_models = 120, 64
    beta = 0.1 * random_beta(num_train, 2)
    own = torch.arange(num_train)
    beta[own, own] *= 10
    observed = linear(num_models, beta, 0.3)
    raw = from_observed(observed, shrink=False)
    found = shrinkage(raw, 0)
    besides = 0.3**2 + num_train / 4 * 0.1**2  # noise, and what other rows do to the output
    assert found.own == pytest.approx(1 / (1 + 4 * besides / num_models), abs=0.02)
    besides += 1 / 4  # what the row itself does
    assert found.other == pytest.approx(0.1**2 / (0.1**2 + 4 * besides / num_models), rel=0.1)
    shrunk = from_observed(observed)
    assert shrunk.shrink == found
    errs = []
    for model in (raw, shrunk):
        each = torch.stack([model.effects(one, model.train) for one in model.train.split(1)])
        errs.append(float((each - beta).square().mean()))
    assert errs[1] < 0.5 * errs[0]


def test_effects_that_are_all_noise_are_shrunk_to_nothing():
    found = from_observed(linear(32, torch.zeros(60, 60, 2), 1.0)).shrink
    assert found.own < 0.1 and found.other < 0.02


def test_outputs_that_never_change_have_no_effects():
    model = from_observed(linear(8, torch.zeros(6, 6, 2), 0.0))
    assert not model.effects(model.train[:2], model.train).any()
