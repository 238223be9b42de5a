"""Difference in means: what a row adds to an output is the mean with it minus the mean without it; and how noisy that is."""

from __future__ import annotations

import torch
from torch import Tensor

from excise import errors, seeds
from excise.attribution.datamodel import Datamodel
from excise.attribution.observed import Answers, Observed
from excise.attribution.origin import Made, Shrink
from excise.attribution.parts import TRAIN, Part

SAMPLED = 256
"""Training rows, and rows of a part, whose pairs are looked at to see how noisy effects are."""


def difference_in_means(observed: Observed, made: Made) -> Datamodel:
    """Give the datamodel whose effects are the mean output of networks with a row minus that of those without it.

    weights[i, k] is 1 / (number with i) where network k was trained on i, else -1 / (number without), and factors are the
    networks' outputs themselves, less their mean. On halves of one size E[effect of i] = beta_i - (sum of the other rows'
    betas) / (n - 1): a row that is in pushes another out. That changes all effects by about the mean effect.

    References:
        Ilyas et al., "Datamodels", ICML 2022, appendix on difference in means (empirical influence; Feldman and Zhang, 2020).

    Args:
        observed: networks on halves, and what they say.
        made: how they came to be.

    Raises:
        errors.BadRequest: a row that all networks were trained on, or none.
    """
    inside = observed.keep.sum(0)
    alone = int(((inside == 0) | (inside == observed.num_models)).sum())
    if alone:
        raise errors.BadRequest(
            f"num_models: {alone} of {len(inside)} rows are in all of the {observed.num_models} networks' halves, or in none; "
            "train more networks"
        )
    weights = torch.where(observed.keep, 1 / inside, -1 / (observed.num_models - inside)).T.contiguous()
    parts = {name: _part(one) for name, one in observed.answers.items()}
    return Datamodel(weights=weights.float(), parts=parts, made=made)


def _part(answers: Answers) -> Part:
    base = answers.logits.double().mean(1)
    sure = answers.margins
    return Part(
        answers.ids,
        base.float(),
        (answers.logits - base[:, None]).float(),
        None if sure is None else (sure - sure.double().mean(1, keepdim=True)).float(),
        answers.content,
    )


def shrinkage(datamodel: Datamodel, seed: int) -> Shrink:
    """Give what effects are to be multiplied by so that their squared error is least, for want of networks.

    An effect found is the true one plus noise of known variance, so that of the mean square found the share
    1 - (mean squared standard error) / (mean squared effect) is true, and that share is the factor of least squared error
    (James and Stein), 0 where noise explains all. One factor for effects of rows on themselves, which are large, and one for
    those on others, which few networks cannot tell from noise: with n rows and K networks their factor is about
    r K / (r K + n), where r is the share of an output's variance that follows from the half and not from the seed.

    Pairs of at most `SAMPLED` rows with each other are looked at, and `SAMPLED` rows with themselves.

    References:
        James and Stein, "Estimation with Quadratic Loss", 1961; Efron and Morris, JASA 1973.

    Args:
        datamodel: a difference in means, not yet shrunk.
        seed: of the rows looked at.
    """
    draws = seeds.generator(seed, "shrinkage")
    train = datamodel.parts[TRAIN]
    chosen = torch.randperm(len(train.ids), generator=draws)[:SAMPLED]
    own = _share(datamodel.weights[chosen, None], train.factors[chosen], None)
    others = []
    for name, part in datamodel.parts.items():
        rows = torch.randperm(len(part.ids), generator=draws)[:SAMPLED]
        weights = datamodel.weights[chosen].expand(len(rows), -1, -1)
        apart = rows[:, None] != chosen[None] if name == TRAIN else None
        others.append(_sums(weights, part.factors[rows], apart))
    squares, noise = (sum(one[place] for one in others) for place in (0, 1))
    return Shrink(own=own, other=max(0.0, 1 - noise / squares) if squares else 0.0)


def _share(weights: Tensor, factors: Tensor, counted: Tensor | None) -> float:
    squares, noise = _sums(weights, factors, counted)
    return max(0.0, 1 - noise / squares) if squares else 0.0


def _sums(weights: Tensor, factors: Tensor, counted: Tensor | None) -> tuple[float, float]:
    """Give the sums of squared effects and of squared standard errors, of weights `[rows, some, factors]` on each row."""
    squares = noise = 0.0
    for place in range(len(factors)):
        away, contrast = factors[place].double(), weights[place].double()
        effect = (contrast @ away).square()
        lengths = contrast.square().sum(1, keepdim=True)
        left = (away.square().sum(0) - effect / lengths).clamp(min=0) * lengths / max(len(away) - 2, 1)
        kept = slice(None) if counted is None else counted[place]
        squares += float(effect[kept].sum())
        noise += float(left[kept].sum())
    return squares, noise
