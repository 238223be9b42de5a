"""What a request would cost on this machine: short runs of the real thing, and a line through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from excise import checks
from excise.data.placing import placed
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Method
from excise.methods.function import UnlearnFunction
from excise.oracles import retrain
from excise.pipeline.forget import unlearn
from excise.pipeline.fresh import fresh_builder
from excise.pipeline.unlearned import Unlearned
from excise.recipes import Recipe
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.machine import Machine, require_machine
from excise.train.plan import TrainPlan, require_plan
from excise.train.task import Forward, Loss, Task, cross_entropy, device_of, forward_pair

SMALLEST = 256
"""Rows of the first short run; each further one has twice as many."""


@dataclass(frozen=True)
class Measured:
    """One short run.

    Attributes:
        num_rows: training rows of the smaller split, those to forget among them.
        seconds: of the unlearning.
        retraining_seconds: of as many epochs of the plan, from scratch on what is retained; None without a plan.
    """

    num_rows: int
    seconds: float
    retraining_seconds: float | None


@dataclass(frozen=True)
class Projection:
    """A time for all rows.

    Attributes:
        seconds: the line through the two largest runs, at all rows; the time itself where all rows were run.
        low: the lowest of the lines through two of the runs, and through the largest and the origin.
        high: the highest of them.
    """

    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Bench:
    """What a request would cost here.

    Attributes:
        recipe: its name.
        num_rows: training rows, those to forget among them.
        unlearning: its time.
        retraining: the time of a retraining by the plan; None without a plan.
        share: of the two; None without a plan.
        starting_seconds: what the first unlearning in a process takes besides: imports, threads, caches.
        passes: rows passed forward and backward by the unlearning, over the training rows.
        extrapolated: False where all rows were run.
        runs: what was measured, smallest first.
    """

    recipe: str
    num_rows: int
    unlearning: Projection
    retraining: Projection | None
    share: float | None
    starting_seconds: float
    passes: float
    extrapolated: bool
    runs: tuple[Measured, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give the same as plain values."""
        return asdict(self)


def bench(
    model: nn.Module,
    split: Split,
    recipe: Recipe | Method | UnlearnFunction,
    *,
    mask: Mask | None = None,
    fresh: Callable[[], nn.Module] | None = None,
    plan: TrainPlan | None = None,
    budget_seconds: float = 30.0,
    seed: int = 0,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    hooks: Hooks | None = None,
    machine: Machine = Machine(),  # noqa: B008 - a frozen value
    clock: Callable[[], float] = time.perf_counter,
) -> Bench:
    """Say what a request would cost on this machine, by doing it on few rows and on twice as many, and so on.

    Every part of the walk has a fixed share (weights copied, digested, compared) and a share a row, so that two sizes give
    both. The retraining is timed beside it, an epoch at each size, and multiplied by the plan's epochs. Nothing is kept;
    the network is not changed. What pays in long runs alone (compilation, activations that are kept) is not seen in short
    ones: the time for all rows is then lower than said. The smallest size is run once more before: what a process pays
    for once (imports, caches) is told apart, and in none of the other times.

    Cost: at most about `budget_seconds` after that first run, but two sizes at least.

    Args:
        model: as in `unlearn`.
        split: as in `unlearn`; drawn from in proportion, forget rows and retained ones.
        recipe: as in `unlearn`.
        mask: as in `unlearn`.
        fresh: as in `unlearn`.
        plan: how the network was trained, to set the cost against a retraining's.
        budget_seconds: no further size is begun that would pass it.
        seed: of the draw and of the runs.
        forward: as in `unlearn`.
        loss: as in `unlearn`.
        hooks: who watches.
        machine: as in `unlearn`.
        clock: gives seconds.

    Raises:
        errors.BadRequest: as `unlearn`, and a plan that is no `TrainPlan`.
    """
    checks.require_finite("budget_seconds", budget_seconds)
    if plan is not None:
        require_plan(plan, "bench")
        split.require_retain("a retraining, to set the cost against,", "; or leave the plan out")
    require_machine(machine)
    watch, whole, size = hooks or Hooks(), len(split.train), min(SMALLEST, len(split.train))
    task = Task(forward, loss)

    def run(size: int, what: str) -> tuple[Measured, Unlearned]:
        part = split.smaller(size, seed) if size < whole else split
        watch.on_part(what)
        started = clock()
        done = unlearn(
            model,
            part,
            recipe,
            mask=mask,
            fresh=fresh,
            seed=seed,
            forward=forward,
            loss=loss,
            hooks=watch,
            machine=machine,
        )
        between = clock()
        if plan is None:
            return Measured(size, between - started, None), done
        engine = Engine(task, seed, Mask.empty(model), hooks=watch, machine=machine)
        read = placed(part, device_of(model), on_device=machine.on_device, workers=machine.workers)
        retrain(fresh_builder(model, fresh, seed), read.retain, plan.of_epochs(1), [seed], engine, stage="retrain")
        return Measured(size, between - started, (clock() - between) * plan.epochs), done

    cold, _ = run(size, f"{size:,} rows, to warm up")
    runs: list[Measured] = []
    began = clock()
    while True:
        started = clock()
        measured, done = run(size, f"{size:,} rows")
        runs.append(measured)
        ended = clock()
        if size == whole or (len(runs) > 1 and ended - began + 2 * (ended - started) > budget_seconds):
            break
        size = min(2 * size, whole)
    ours = _projected([(run.num_rows, run.seconds) for run in runs], whole)
    theirs = None
    if plan is not None:
        theirs = _projected([(run.num_rows, run.retraining_seconds or 0.0) for run in runs], whole)
    return Bench(
        recipe=done.recipe,
        num_rows=whole,
        unlearning=ours,
        retraining=theirs,
        share=None if theirs is None or theirs.seconds == 0 else ours.seconds / theirs.seconds,
        starting_seconds=max(cold.seconds - runs[0].seconds, 0.0),
        passes=done.cost.trained_rows / size,
        extrapolated=size < whole,
        runs=tuple(runs),
    )


def _projected(points: Sequence[tuple[int, float]], whole: int) -> Projection:
    """Give the time at `whole` rows of lines through two points, and through the last one and the origin."""
    *before, (most, seconds) = points
    if most == whole:
        return Projection(seconds, seconds, seconds)
    lines = [seconds + max(seconds - less, 0.0) / (most - fewer) * (whole - most) for fewer, less in before]
    every = [*lines, seconds / most * whole]
    return Projection(lines[-1], min(every), max(every))
