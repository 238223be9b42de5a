"""Relearning curves: how a copy of a network learns the forget rows again, step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from excise import checks, params, seeds
from excise.data.rows import Rows
from excise.masks import Mask
from excise.observe.outputs import collect
from excise.train.engine import Engine
from excise.train.loop import fit_
from excise.train.masked import Statistics
from excise.train.plan import TrainPlan
from excise.train.step import Pass, Step
from excise.train.task import require_class_targets

PLAN = TrainPlan(epochs=60, lr=0.05, schedule="constant", batch_size=32)
"""Long enough for a network that never saw them to learn rows with wrong labels: an MLP takes 170 steps for 128 digits."""
STAGE = "relearn"


@dataclass(frozen=True, eq=False)
class Relearned:
    """Curves of one network that learnt rows again, once a seed.

    Attributes:
        steps: int64 `[points]`, optimizer steps done at each point; the first is 0.
        accuracy: float64 `[seeds, points]`, share of the judged rows that are right.
        losses: float64 `[seeds, points]`, their mean loss.
    """

    steps: np.ndarray
    accuracy: np.ndarray
    losses: np.ndarray


def hint(rows: Rows, fraction: float, generator: torch.Generator) -> Rows:
    """Draw a fraction of rows, at least one: what is given back of a class, or of a trigger, to see whether the rest comes too.

    Raises:
        errors.BadRequest: not a fraction.
    """
    checks.require_fraction("fraction", fraction)
    count = max(1, round(fraction * len(rows)))
    drawn = torch.randperm(len(rows), generator=generator)[:count]
    return Rows(rows.source, rows.ids[drawn].sort().values)


def relearn(
    model: nn.Module,
    rows: Rows,
    engine: Engine,
    *,
    judged: Rows | None = None,
    plan: TrainPlan = PLAN,
    num_seeds: int = 3,
    every: int = 1,
    statistics: Statistics = "adapt",
) -> Relearned:
    """Finetune copies of a network on rows that it should have forgotten, and look at it every few steps.

    The copies learn in the same batches whatever the network, so that two networks' curves can be compared seed by seed.
    Looking does not change what is learnt. Weights that ask for no gradient stay. Networks are to be compared by one plan;
    beside the unlearned one belong oracles, the original and an untrained network (`measure.relearning`).

    Cost: for each seed `plan.epochs` passes forward and backward over `rows`, and a pass forward over `judged` a point. More
    rows make more steps an epoch too: of many, give a `hint` or few `judged`, or look less often.

    Args:
        model: left alone; may be wrapped.
        rows: what is learnt: the forget rows, or a `hint` of them.
        engine: task, seed; counts the cost.
        judged: whose accuracy and loss make the curve; None for `rows`.
        plan: how it is learnt.
        num_seeds: orders of batches to learn in; at least 3 for a claim.
        every: steps from one point to the next. Points are 0, `every`, ... as far as the steps go.
        statistics: rule for running statistics, see `train.masked`; by default they move, as in any training.

    Raises:
        errors.Diverged: the learning did; as a rule of a network that gives no finite output.
        errors.BadData: targets that are not classes of the network.
    """
    checks.require_positive_int("num_seeds", num_seeds)
    checks.require_positive_int("every", every)
    shown = rows if judged is None else judged
    curves = [_learn(model, rows, shown, engine, plan, number, every, statistics) for number in range(num_seeds)]
    table = np.array(curves)
    return Relearned(np.arange(table.shape[1]) * every, table[:, :, 0], table[:, :, 1])


def _learn(
    model: nn.Module,
    rows: Rows,
    judged: Rows,
    engine: Engine,
    plan: TrainPlan,
    number: int,
    every: int,
    statistics: Statistics,
) -> list[tuple[float, float]]:
    """Give accuracy and mean loss at each point of one seed."""
    copy = params.clone_model(params.unwrapped(model))
    own = replace(engine, seed=seeds.derive(engine.seed, STAGE, number), slow=None, trace=[], checkpoints=None)
    curve: list[tuple[float, float]] = []
    done = 0

    def look() -> None:
        if done % every == 0:
            curve.append(_judge(copy, judged, own))

    def objective(step: Step) -> Tensor:
        nonlocal done
        look()
        done += 1
        return step.mean_loss("forget")

    def passes(_: int) -> tuple[Pass]:
        return (Pass(objective, ("forget",)),)

    fit_(copy, passes, {"forget": rows}, plan, Mask.full(copy), own, stage=STAGE, statistics=statistics)
    look()
    return curve


def _judge(model: nn.Module, rows: Rows, engine: Engine) -> tuple[float, float]:
    with seeds.isolated(engine.seed, STAGE, "look"):
        found = collect(model, rows, engine)
    targets, logits = torch.from_numpy(found.targets), torch.from_numpy(found.logits)
    require_class_targets(targets, logits, STAGE, remedy="there is no accuracy to watch without classes")
    return float((logits.argmax(1) == targets).double().mean()), float(found.losses.mean())
