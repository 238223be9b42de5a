"""`score`: how well a datamodel predicts networks on halves that it has not seen (the linear datamodeling score)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from excise import errors, seeds
from excise.attribution.datamodel import Datamodel
from excise.attribution.estimate import engine_for, observe_halves
from excise.attribution.observed import Observed
from excise.attribution.parts import TRAIN
from excise.cluster import Fleet
from excise.data.rows import Rows
from excise.data.split import Split
from excise.measure.measures import CONFIDENCE
from excise.oracles import Bank
from excise.oracles.retrain import TrainFunction
from excise.train.hooks import Hooks
from excise.train.machine import Machine
from excise.train.plan import TrainPlan
from excise.train.task import Forward, Loss, Task, cross_entropy, forward_pair

Output = Literal["margins", "logits"]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How predicted and true outputs of networks on held-out halves go together.

    Attributes:
        spearman: mean over rows of the rank correlation over networks (the linear datamodeling score).
        spearman_low: lower end of its 95% interval, by the jackknife over networks.
        spearman_high: upper end.
        pearson: the same of the plain correlation.
        pearson_low: lower end.
        pearson_high: upper end.
        num_models: networks on held-out halves.
        num_rows: rows, or rows times classes, whose true outputs vary.
        part: where the rows are.
        output: margins or logits.
    """

    spearman: float
    spearman_low: float
    spearman_high: float
    pearson: float
    pearson_low: float
    pearson_high: float
    num_models: int
    num_rows: int
    part: str
    output: str


def score(
    datamodel: Datamodel,
    fresh: Callable[[], nn.Module],
    rows: Split | Rows | Mapping[str, Rows],
    plan: TrainPlan | TrainFunction,
    num_models: int = 16,
    *,
    part: str = "test",
    output: Output = "margins",
    bank: Bank | str | Path | None = None,
    together: bool | None = None,
    fleet: Fleet | None = None,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    hooks: Hooks | None = None,
    machine: Machine = Machine(),  # noqa: B008 - a frozen value
) -> Score:
    """Train networks on halves that the datamodel has not seen, and say how well it predicts their outputs.

    Even a perfect datamodel stays below 1: networks differ by their seeds, too, which no datamodel predicts. And it is a score
    of predictions over all rows at once, which says more of effects on other rows than of a row on itself.

    Cost: `num_models` trainings on half of the rows.

    Args:
        datamodel: to judge.
        fresh: as in `estimate`, as are the arguments not named here.
        rows: the same as in `estimate`.
        plan: the same as in `estimate`.
        num_models: even, at least 4.
        part: whose rows' outputs are predicted.
        output: margins of the rows' labels, or logits.
        bank: as in `estimate`.
        together: as in `estimate`.
        fleet: as in `estimate`.
        forward: as in `estimate`.
        loss: as in `estimate`.
        hooks: as in `estimate`.
        machine: as in `estimate`.
    """
    require_held(num_models)
    seed = seeds.derive(datamodel.made.seed, "held-out halves")
    engine = engine_for(fresh, Task(forward, loss), seed, hooks, machine)
    held = observe_halves(fresh, rows, plan, num_models, engine, bank=bank, together=together, fleet=fleet)
    return datamodeling_score(datamodel, held, part=part, output=output)


def require_held(num_models: int) -> None:
    """Refuse a number of networks to judge by that is odd or below 4.

    Raises:
        errors.BadRequest: it is.
    """
    if num_models < 4 or num_models % 2:
        raise errors.BadRequest(f"score: expected an even number of networks, 4 or more, found {num_models}")


def datamodeling_score(
    datamodel: Datamodel, held: Observed, *, part: str = "test", output: Output = "margins"
) -> Score:
    """Give the linear datamodeling score on networks that the datamodel was not made from; see `score`.

    A row of which all networks are predicted to say the same (effects shrunk to nothing) counts as 0. The interval is over
    the networks held out, for this datamodel; ranks in it are those among all of them.

    References:
        Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023, definition 2.3, https://arxiv.org/abs/2303.14186.

    Args:
        datamodel: to judge.
        held: other networks on halves of the same rows, at least 4.
        part: whose rows' outputs are predicted.
        output: margins of the rows' labels, or logits.

    Raises:
        errors.BadRequest: other rows than the datamodel's, fewer than 4 networks, or outputs that never vary.
    """
    theirs, known = held.answers.get(part), datamodel.part(part)
    same = theirs is not None and torch.equal(theirs.ids, known.ids) and held.keep.shape[1] == len(datamodel.train)
    if theirs is None or not same or held.num_models < 4:
        raise errors.BadRequest(
            f"held: expected at least 4 networks on halves of the datamodel's own rows, asked of the rows of {part!r}, found "
            f"{held.num_models} networks and parts {', '.join(held.answers)}"
        )
    if output == "margins":
        if theirs.margins is None:
            raise errors.BadRequest(f"output: the rows of {part!r} have no class labels and so no margins; take logits")
        true, factors = theirs.margins.double(), datamodel.margin_factors(part)[..., None]
    else:
        true, factors = theirs.logits.double().transpose(1, 2).flatten(0, 1), known.factors
    predicted = predictions(datamodel, held.keep, factors, part)
    varied = true.amax(1) > true.amin(1)
    if not bool(varied.any()):
        raise errors.BadRequest(f"held: outputs on {part!r} are the same for all networks; there is nothing to rank")
    own, found = predicted[varied].numpy(), true[varied].numpy()
    spearman = _with_interval(stats.rankdata(own, axis=1), stats.rankdata(found, axis=1))
    pearson = _with_interval(own, found)
    return Score(
        spearman=spearman[0],
        spearman_low=spearman[1],
        spearman_high=spearman[2],
        pearson=pearson[0],
        pearson_low=pearson[1],
        pearson_high=pearson[2],
        num_models=held.num_models,
        num_rows=len(own),
        part=part,
        output=output,
    )


def predictions(datamodel: Datamodel, keep: Tensor, factors: Tensor, part: str) -> Tensor:
    """Give what the datamodel adds to its base for networks trained on some rows each, float64 `[rows * classes, models]`.

    Args:
        datamodel: its weights and its shrinking.
        keep: bool `[models, train]`.
        factors: `[rows, factors, classes]`, of the part.
        part: whose factors they are.
    """
    centred = keep.double() - 0.5
    found = torch.einsum("mk,rkc->rcm", centred @ datamodel.weights.double(), factors.double()) * datamodel.shrink.other
    if part == TRAIN:
        own = torch.einsum("rk,rkc->rc", datamodel.weights.double(), factors.double())
        further = datamodel.shrink.own - datamodel.shrink.other
        found += further * own[..., None] * centred.T[:, None]
    return found.flatten(0, 1)


def _with_interval(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Give the mean correlation over rows, and its interval by the jackknife over networks (columns)."""
    count = one.shape[1]
    whole = _mean_correlation(one, other)
    left = [_mean_correlation(np.delete(one, place, 1), np.delete(other, place, 1)) for place in range(count)]
    error = float(np.sqrt((count - 1) * np.var(left)))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return whole, max(whole - reach, -1.0), min(whole + reach, 1.0)


def _mean_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Give the mean over rows of the correlation over columns; a row that does not vary counts as 0."""
    first, second = (values - values.mean(axis=1, keepdims=True) for values in (one, other))
    length = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return float(np.divide((first * second).sum(axis=1), length, out=np.zeros_like(length), where=length > 0).mean())
