"""How a choice made without oracles would have ranked by them; and the margins of oracles trained for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from scipy.stats import kendalltau
from torch import nn

from excise import errors, params, seeds
from excise.cluster import Fleet
from excise.data.split import Split
from excise.masks import Mask
from excise.measure import margin_distance, margins
from excise.observe import collect
from excise.oracles import Bank
from excise.oracles import oracles as oracles_of
from excise.oracles.retrain import TrainFunction
from excise.pipeline.evidence import loaded
from excise.pipeline.fresh import untrained
from excise.pipeline.tuning_journal import Trial
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.machine import Machine
from excise.train.plan import TrainPlan
from excise.train.task import Forward, Loss, Task, cross_entropy, forward_pair

FEWEST_ORACLES = 3
"""Nothing is ranked by fewer training seeds."""

FEWEST_TRIALS = 6
"""Below this Kendall's tau says nothing: with 4, even a perfect order has p = 0.083."""


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """Where a choice stands among the trials that could have been chosen, by their true distance to oracles.

    True distance is `excise.measure.margin_distance`: the root mean square, over the forget rows, of the margin's distance
    from the oracles' mean, in units of their spread.

    Attributes:
        rank: of the choice, 1 the best; equal ones share the better rank.
        num_trials: how many trials were ranked: those that kept the bounds, without repetitions.
        kendall_tau: between what was made small and true distance; None with fewer than 6 trials.
        p: of that, two-sided.
        distance: true distance of the choice.
        best: the smallest among the trials.
        regret: the former minus the latter, at least 0.
        median: true distance of the middle trial: what a random choice comes to.
        oracle: the mean of each oracle's own distance from the others.
        num_oracles: how many.
    """

    rank: int
    num_trials: int
    kendall_tau: float | None
    p: float | None
    distance: float
    best: float
    regret: float
    median: float
    oracle: float
    num_oracles: int


def rank_by_oracles(trials: Sequence[Trial], own: Mapping[int, np.ndarray], oracles: object) -> Ranking:
    """Rank trials by true distance, and say where the one of the lowest value stands.

    Args:
        trials: those that could have been chosen, at least one.
        own: `[forget]` margins by number of trial.
        oracles: see `Tuning.against`.

    Raises:
        errors.BadRequest: fewer than 3 oracles, or margins of other rows.
    """
    held: Any = getattr(oracles, "evidence", oracles)
    known = [np.asarray(getattr(one, "margins", one)) for one in held]
    shape = own[trials[0].number].shape
    if len(known) < FEWEST_ORACLES or not all(one.shape == shape and np.isfinite(one).all() for one in known):
        raise errors.BadRequest(
            f"oracles: expected finite margins of {shape[0]} forget rows by at least {FEWEST_ORACLES} networks, since fewer "
            f"training seeds rank nothing; found {len(known)} of shapes {sorted({one.shape for one in known})}"
        )
    away = np.array([margin_distance(own[trial.number], known) for trial in trials])
    values = [float(trial.value or 0.0) for trial in trials]
    chosen = int(np.argmin(values))
    tau = kendalltau(values, away) if len(trials) >= FEWEST_TRIALS else None
    return Ranking(
        rank=1 + int((away < away[chosen]).sum()),
        num_trials=len(trials),
        kendall_tau=None if tau is None else float(tau.statistic),
        p=None if tau is None else float(tau.pvalue),
        distance=float(away[chosen]),
        best=float(away.min()),
        regret=float(away[chosen] - away.min()),
        median=float(np.median(away)),
        oracle=float(np.mean([margin_distance(one, [*known[:i], *known[i + 1 :]]) for i, one in enumerate(known)])),
        num_oracles=len(known),
    )


def oracle_margins(
    model: nn.Module,
    split: Split,
    *,
    plan: TrainPlan | TrainFunction,
    oracles: int,
    fresh: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    hooks: Hooks | None = None,
    bank: Bank | None = None,
    machine: Machine = Machine(),  # noqa: B008 - a frozen value
    fleet: Fleet | None = None,
) -> np.ndarray:
    """Retrain networks on the retain rows and give their margins of the forget rows, float64 `[models, forget]`.

    For `Tuning.against`, after the choice. The seeds are those of an audit's oracles, so a bank serves both. A fleet may train.

    Raises:
        errors.BadRequest: fewer than 3 oracles, or no way to build an untrained network.
        errors.Diverged: a training did.
    """
    if oracles < FEWEST_ORACLES:
        raise errors.BadRequest(
            f"oracles: expected at least {FEWEST_ORACLES}, since fewer training seeds rank nothing; found {oracles}"
        )
    inner = params.unwrapped(model)
    build = untrained(inner, inner, fresh)
    engine = Engine(Task(forward, loss), seed, Mask.empty(inner), hooks=hooks or Hooks(), machine=machine)
    found = []
    for trained in oracles_of(build, split.retain, plan, oracles, engine, bank=bank, fleet=fleet):
        network = loaded(build, trained, "an oracle")
        with seeds.isolated(seed, "tuning look"):
            outputs = collect(network, split.forget, engine)
        found.append(margins(outputs.logits, outputs.targets))
    return np.stack(found)
