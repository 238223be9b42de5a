"""The scale of effects that are right up to a factor, fitted to a few networks that were trained without some rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from scipy import stats
from torch import Tensor, nn

from excise import checks, errors, params, seeds
from excise.attribution.datamodel import Datamodel
from excise.attribution.estimate import bank_of, engine_for
from excise.attribution.observed import parts_of
from excise.attribution.parts import TRAIN, Part
from excise.data.rows import Rows
from excise.data.split import Split
from excise.measure.measures import CONFIDENCE
from excise.observe import collect
from excise.oracles import Bank, Trained, retrain
from excise.oracles.retrain import TrainFunction
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.machine import Machine
from excise.train.plan import TrainPlan
from excise.train.task import Forward, Loss, Task, cross_entropy, forward_pair


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """What effects are to be multiplied by, and how sure that is.

    Attributes:
        value: the slope of the least-squares line through 0.
        low: lower end of its 95% interval; the sets of rows are what is drawn, not their outputs.
        high: upper end.
        correlation: of predicted and true changes of logits, over all sets, rows and classes.
        num_sets: random sets of rows that networks were trained without.
        num_rows: rows in each.
        num_models: networks trained without each set, and as many with all rows.
    """

    value: float
    low: float
    high: float
    correlation: float
    num_sets: int
    num_rows: int
    num_models: int


def fit_scale(
    datamodel: Datamodel,
    fresh: Callable[[], nn.Module],
    rows: Split | Rows | Mapping[str, Rows],
    plan: TrainPlan | TrainFunction,
    *,
    num_sets: int = 5,
    forget_fraction: float = 0.05,
    num_models: int = 2,
    seed: int = 0,
    bank: Bank | str | Path | None = None,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    hooks: Hooks | None = None,
    machine: Machine = Machine(),  # noqa: B008 - a frozen value
) -> tuple[Datamodel, Scale]:
    """Fit the factor that effects lack to retrainings without a few random sets of rows, and give the datamodel so scaled.

    For each set, networks are trained without it, and as many on all rows from the same seeds, so that what a seed does
    cancels in part. Their logits' mean change, on the set's rows and as many others, is regressed on the predicted one, minus
    the sum of effects, without intercept. The interval is that of a ratio over sets, with one degree of freedom less than sets.

    An interval that holds 0 says that these effects predict nothing here, and is told to the hooks: do not match them.

    Cost: `num_models` trainings on all rows and `num_sets * num_models` on what is left.

    Args:
        datamodel: whose effects are right up to a factor, such as that of `trak`.
        fresh: builds an untrained network, a new one at each call.
        rows: as in `estimate`.
        plan: how the network that is to forget was trained.
        num_sets: at least 2.
        forget_fraction: of the training rows, in each set.
        num_models: networks for each set.
        seed: sets and networks follow from it.
        bank: where networks are kept and found again; all of them HAVE seen rows that a request may want forgotten.
        forward: as in `excise.unlearn`.
        loss: as in `excise.unlearn`.
        hooks: who watches.
        machine: as in `excise.unlearn`.

    Raises:
        errors.BadRequest: numbers out of range, rows that are not the datamodel's, or effects that are all 0.
        errors.Diverged: a training did.
    """
    if checks.require_positive_int("num_sets", num_sets) < 2:
        raise errors.BadRequest("num_sets: expected 2 or more, so that there is an interval, found 1")
    checks.require_positive_int("num_models", num_models)
    train = parts_of(rows)[TRAIN]
    datamodel.require_rows(train)
    num_rows = max(1, math.floor(checks.require_fraction("forget_fraction", forget_fraction) * len(train)))
    if 2 * num_rows > len(train):
        raise errors.BadRequest(f"forget_fraction: expected at most half of the rows, found {forget_fraction:g}")
    engine = engine_for(fresh, Task(forward, loss), seed, hooks, machine)
    chosen = [seeds.derive(seed, "scale", number) for number in range(num_models)]
    held = bank_of(bank, train)
    whole = retrain(fresh, train, plan, chosen, engine, stage="with all rows", bank=held, kind="original")
    with seeds.isolated(seed, "fresh"):
        model = fresh()
    pairs = []
    for number in range(num_sets):
        order = torch.randperm(len(train), generator=seeds.generator(seed, "scale", "set", number))
        gone, asked = train.ids[order[:num_rows].sort().values], train.ids[order[: 2 * num_rows].sort().values]
        stay = Rows(train.source, train.ids[order[num_rows:].sort().values])
        without = retrain(fresh, stay, plan, chosen, engine, stage=f"without set {number + 1}", bank=held)
        wanted = Rows(train.source, asked)
        true = _mean(model, without, wanted, engine) - _mean(model, whole, wanted, engine)
        pairs.append((-datamodel.effects(gone, asked), true))
    scale = slope(pairs, num_rows=num_rows, num_models=num_models)
    if scale.low <= 0 <= scale.high:
        engine.hooks.on_note(
            f"scale: {scale.value:.3g}, but its interval from {scale.low:.3g} to {scale.high:.3g} holds 0: these effects "
            "predict nothing here; give more sets, or another datamodel"
        )
    return scaled(datamodel, scale.value), scale


def slope(pairs: list[tuple[Tensor, Tensor]], *, num_rows: int, num_models: int) -> Scale:
    """Give the slope m of true = m predicted over pairs of predicted and true changes, one a set, and its interval over sets.

    With u_j = sum over a set of predicted (true - m predicted), its error is sqrt(J / (J - 1) sum u_j^2) over the sum of
    squares: that of a ratio estimator whose J sets are drawn at random.

    Raises:
        errors.BadRequest: predicted changes are all 0.
    """
    predicted, true = (torch.cat([pair[side].flatten() for pair in pairs]).double() for side in (0, 1))
    squares = float(predicted.square().sum())
    if squares == 0:
        raise errors.BadRequest("scale: the predicted changes are all 0, which no factor brings to the true ones")
    value = float(predicted @ true) / squares
    left = [float((one * (other - value * one)).sum()) for one, other in pairs]
    count = len(pairs)
    error = math.sqrt(count / (count - 1) * sum(one**2 for one in left)) / squares
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    centred = [one - one.mean() for one in (predicted, true)]
    length = math.sqrt(float(centred[0].square().sum() * centred[1].square().sum()))
    return Scale(
        value=value,
        low=value - reach,
        high=value + reach,
        correlation=float(centred[0] @ centred[1]) / length if length else 0.0,
        num_sets=count,
        num_rows=num_rows,
        num_models=num_models,
    )


def scaled(datamodel: Datamodel, factor: float) -> Datamodel:
    """Give a datamodel with all effects times a factor; what it predicts of networks on all rows stays."""

    def moved(name: str, part: Part) -> Part:
        every = datamodel.effects(datamodel.train, part.ids, part=name)
        return replace(part, base=(part.base.double() + (1 - factor) / 2 * every).to(part.base))

    parts = {name: moved(name, part) for name, part in datamodel.parts.items()}
    return replace(datamodel, weights=factor * datamodel.weights, parts=parts)


def _mean(model: nn.Module, trained: list[Trained], rows: Rows, engine: Engine) -> Tensor:
    """Give the mean of networks' logits on rows; `model` is written to."""
    found = []
    for one in trained:
        params.load_strictly_(model, one.state, "a network of the scale")
        found.append(torch.from_numpy(collect(model, rows, engine).logits))
    return torch.stack(found).mean(0)
