"""The score beside a loop over rows with scipy's correlations; its interval beside repetition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from excise import errors, seeds
from excise.attribution import Observed, Shrink, datamodeling_score, estimate, from_observed, observe_halves, score
from excise.data import Rows
from excise.masks import Mask
from excise.train import Engine, Task, TrainPlan
from tests.attribution.planted import linear
from tests.attribution.test_means import random_beta


def outputs(observed, output):
    answers = observed.answers["train"]
    return answers.margins.double() if output == "margins" else answers.logits.double().transpose(1, 2).flatten(0, 1)


def predicted(model, keep, output):
    """base + sum over i of (1_S(i) - 1/2) beta_i, row by row."""
    found = []
    for chosen in keep:
        total = 0
        for i, inside in enumerate(chosen):
            one = model.train[[i]]
            effect = (
                model.matrix(model.train)[:, i] if output == "margins" else model.effects(one, model.train).flatten()
            )
            total = total + (float(inside) - 0.5) * effect
        found.append(total)
    return torch.stack(found, 1)


@pytest.mark.parametrize("output", ["margins", "logits"])
def test_the_score_is_the_mean_of_rows_correlations(output):
    beta = random_beta()
    model, held = from_observed(linear(16, beta, 1.0)), linear(6, beta, 1.0, seed=1)
    assert model.shrink.own != model.shrink.other
    found = datamodeling_score(model, held, part="train", output=output)
    ours, theirs = predicted(model, held.keep, output).numpy(), outputs(held, output).numpy()
    ranks = [stats.spearmanr(one, other).statistic for one, other in zip(ours, theirs, strict=True)]
    plain = [stats.pearsonr(one, other).statistic for one, other in zip(ours, theirs, strict=True)]
    assert found.spearman == pytest.approx(np.mean(ranks), abs=1e-6)
    assert found.pearson == pytest.approx(np.mean(plain), abs=1e-6)
    assert (found.num_models, found.num_rows) == (6, 10 if output == "margins" else 30)
    assert found.spearman_low < found.spearman < found.spearman_high


def test_a_perfect_datamodel_of_noiseless_networks_scores_one():
    beta = random_beta(6, 2)
    model = from_observed(linear(48, beta, 0.0), by="sparse")
    found = datamodeling_score(model, linear(8, beta, 0.0, seed=1), part="train")
    assert found.spearman > 0.98 and found.pearson > 0.999


def test_more_networks_score_higher():
    beta, held = random_beta(), linear(32, random_beta(), 0.5, seed=1)
    every = linear(128, beta, 0.5)
    scores = [
        datamodeling_score(from_observed(every.first(count)), held, part="train").spearman for count in (8, 32, 128)
    ]
    assert scores[0] < scores[1] < scores[2]


def test_intervals_hold_the_score_of_many_networks():
    beta = random_beta()
    model = from_observed(linear(32, beta, 1.0))
    truth = datamodeling_score(model, linear(600, beta, 1.0, seed=1000), part="train").pearson
    held = [datamodeling_score(model, linear(16, beta, 1.0, seed=1 + trial), part="train") for trial in range(40)]
    inside = sum(one.pearson_low <= truth <= one.pearson_high for one in held)
    assert inside >= 34  # 38 are expected; fewer than 34 of 40 at 95% has probability 0.3%


def test_other_rows_and_too_few_networks_are_refused():
    beta = random_beta()
    model, held = from_observed(linear(16, beta, 1.0)), linear(6, beta, 1.0, seed=1)
    wrong = Observed(held.keep, {"test": held.answers["train"]})
    for one, part in ((held.first(3), "train"), (wrong, "train"), (linear(6, random_beta(8), 1.0), "train")):
        with pytest.raises(
            errors.BadRequest, match="held: expected at least 4 networks on halves of the datamodel's own rows"
        ):
            datamodeling_score(model, one, part=part)
    with pytest.raises(errors.BadRequest, match="part: this datamodel knows outputs on 'train', found 'test'"):
        datamodeling_score(model, held)
    with pytest.raises(errors.BadRequest, match="output: the rows of 'train' have no class labels"):
        datamodeling_score(model, linear(6, beta, 1.0, labels=False), part="train")
    with pytest.raises(errors.BadRequest, match="held: outputs on 'train' are the same for all networks"):
        datamodeling_score(model, linear(6, 0 * beta, 0.0), part="train")


@pytest.mark.parametrize("num_models", [2, 5])
def test_too_few_networks_are_refused_before_any_training(num_models):
    with pytest.raises(
        errors.BadRequest, match=f"score: expected an even number of networks, 4 or more, found {num_models}"
    ):
        score(from_observed(linear(16, random_beta(), 1.0)), lambda: None, None, None, num_models)


def test_predictions_that_are_all_alike_score_nothing():
    model = replace(from_observed(linear(16, random_beta(), 1.0)), shrink=Shrink(own=0.0, other=0.0))
    found = datamodeling_score(model, linear(6, random_beta(), 1.0, seed=1), part="train")
    assert (found.spearman, found.pearson, found.num_rows) == (0.0, 0.0, 10)


def test_networks_of_the_score_are_others_than_the_datamodels():
    def make():
        return nn.Linear(2, 2)

    draws = torch.Generator().manual_seed(0)
    rows = Rows.all_of((torch.randn(8, 2, generator=draws), torch.arange(8) % 2))
    plan = TrainPlan(epochs=2, lr=0.5, batch_size=4)
    model = estimate(make, rows, plan, 8, together=False)
    found = score(model, make, rows, plan, 4, part="train", together=False)
    engine = Engine(Task(), seeds.derive(0, "held-out halves"), Mask.empty(make()))
    held = observe_halves(make, rows, plan, 4, engine, together=False)
    assert found == datamodeling_score(model, held, part="train")
