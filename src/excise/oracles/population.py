"""Populations for audits, as values: oracles in two arms, originals, and networks trained on random halves.

Networks of kind `original` and `half` HAVE seen the forget rows. Kept in a bank they are copies of what was to be
forgotten: `Bank.entries` shows them, and once the request is done `bank.prune(kinds=["original", "half"])` removes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from excise import checks, errors, seeds
from excise.cluster import Fleet
from excise.data.rows import Rows
from excise.oracles.bank import Bank, Trained
from excise.oracles.retrain import TrainFunction, retrain
from excise.train.engine import Engine
from excise.train.plan import TrainPlan


@dataclass(frozen=True, eq=False)
class Halves:
    """Networks each trained on a random half of some rows.

    Attributes:
        ids: int64 `[rows]`, ids of the rows, ascending.
        keep: bool `[models, rows]`, True where the network was trained on the row; half of every column.
        trained: one a row of `keep`, in the same order.
    """

    ids: np.ndarray
    keep: np.ndarray
    trained: Sequence[Trained]


def half_splits(num_rows: int, num_models: int, seed: int) -> np.ndarray:
    """Draw which network is trained on which row: every row is in exactly half of them, every network has half of the rows.

    Each row's networks are the first half of a random order, drawn for each row apart, as in the paper's experiments. That
    leaves the networks with unequal numbers of rows, which could not be trained together; so random rows move from those
    that have too many to those that have too few, about one row in `sqrt(num_rows)` of each network. Each row keeps its
    number of networks.

    References:
        Carlini, Chien, Nasr, Song, Terzis, Tramèr, "Membership Inference Attacks From First Principles", IEEE S&P 2022,
        section V, https://arxiv.org/abs/2112.03570

    Args:
        num_rows: at least 2; of an odd number half of the networks have one row more than the others.
        num_models: even.
        seed: of the draw.

    Returns:
        bool `[models, rows]`.

    Raises:
        errors.BadRequest: an odd number of networks, or fewer than two rows.

    >>> keep = half_splits(6, 4, 0)
    >>> keep.sum(0), keep.sum(1)
    (array([2, 2, 2, 2, 2, 2]), array([3, 3, 3, 3]))
    """
    for name, value in (("num_rows", num_rows), ("num_models", num_models)):
        checks.require_positive_int(name, value)
    if num_models % 2:
        raise errors.BadRequest(f"num_models: expected an even number, so that it has halves, found {num_models}")
    if num_rows < 2:
        raise errors.BadRequest(f"num_rows: expected two or more, so that every network has some, found {num_rows}")
    draws = np.random.default_rng(seeds.derive(seed, "half splits"))
    keep: np.ndarray = draws.uniform(size=(num_models, num_rows)).argsort(axis=0) < num_models // 2
    _even_out_(keep, draws)
    return keep


def _even_out_(keep: np.ndarray, draws: np.random.Generator) -> None:
    """Move random rows between networks, in place, until each has half of them; of an odd number the fullest keep one more."""
    num_models, num_rows = keep.shape
    sizes = keep.sum(axis=1)
    wanted = np.full(num_models, num_rows // 2)
    wanted[np.argsort(-sizes, kind="stable")[: num_models // 2]] += num_rows % 2
    while (excess := keep.sum(axis=1) - wanted).any():  # each turn puts one network right
        full, short = int(excess.argmax()), int(excess.argmin())
        movable = np.flatnonzero(keep[full] & ~keep[short])
        rows = draws.choice(movable, size=min(excess[full], -excess[short]), replace=False)
        keep[full, rows], keep[short, rows] = False, True


def train_halves(
    fresh: Callable[[], nn.Module],
    rows: Rows,
    plan: TrainPlan | TrainFunction,
    num_models: int,
    engine: Engine,
    *,
    bank: Bank | None = None,
    together: bool | None = False,
    fleet: Fleet | None = None,
) -> Halves:
    """Train networks on random halves of `rows`, each row in half of them; splits and seeds follow from the engine's seed.

    Cost: `num_models` trainings on half of the rows. What else goes in, and what may go wrong, is `retrain`'s.
    """
    keep = half_splits(len(rows), num_models, engine.seed)
    several = [Rows(rows.source, rows.ids[torch.from_numpy(chosen)]) for chosen in keep]
    chosen = _family(engine, "half", num_models)
    trained = retrain(
        fresh, several, plan, chosen, engine, stage="half", bank=bank, together=together, kind="half", fleet=fleet
    )
    return Halves(rows.ids.numpy(), keep, trained)


def originals(
    fresh: Callable[[], nn.Module],
    rows: Rows,
    plan: TrainPlan | TrainFunction,
    num_models: int,
    engine: Engine,
    *,
    bank: Bank | None = None,
    together: bool | None = False,
    fleet: Fleet | None = None,
) -> list[Trained]:
    """Train networks the way the original was, on all of its training rows, forget rows included, from seeds of their own.

    Cost: `num_models` trainings. What else goes in, and what may go wrong, is `retrain`'s.
    """
    chosen = _family(engine, "original", num_models)
    return retrain(
        fresh, rows, plan, chosen, engine, stage="original", bank=bank, together=together, kind="original", fleet=fleet
    )


def oracles(
    fresh: Callable[[], nn.Module],
    retain: Rows,
    plan: TrainPlan | TrainFunction,
    num_models: int,
    engine: Engine,
    *,
    held_out: bool = False,
    bank: Bank | None = None,
    together: bool | None = False,
    fleet: Fleet | None = None,
) -> list[Trained]:
    """Train networks that never saw the forget rows: one arm of oracles, or with `held_out` the other, of other seeds.

    The first arm's networks are what an unlearned one is held against. The held-out arm's are alike in all but their
    seeds and no part of that comparison, so that they show what it says of a perfect method.

    Cost: `num_models` trainings. What else goes in, and what may go wrong, is `retrain`'s.
    """
    family, stage = ("held out", "held-out oracle") if held_out else ("oracle", "oracle")
    chosen = _family(engine, family, num_models)
    return retrain(fresh, retain, plan, chosen, engine, stage=stage, bank=bank, together=together, fleet=fleet)


def _family(engine: Engine, name: str, num_models: int) -> list[int]:
    checks.require_positive_int("num_models", num_models)
    return [seeds.derive(engine.seed, name, number) for number in range(num_models)]
