"""The only loop over epochs. Trains, retrains, finetunes and ascends; knows no method's name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from typing import Any

import msgspec
import torch
from torch import nn

from excise import seeds
from excise.data.batches import num_batches
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train.activations import keep_activations
from excise.train.checkpoints import Carried, Position, Remembers, Stage
from excise.train.compiling import compiled
from excise.train.engine import Engine
from excise.train.feeding import Feed
from excise.train.hooks import EpochTrace
from excise.train.losses import Losses, looks_every
from excise.train.masked import Statistics, enforced
from excise.train.order import Schedule, readings_of
from excise.train.plan import TrainPlan
from excise.train.running import Running, laid_out, without_autocast
from excise.train.sound import NetworkState, OptimizerState, Sound
from excise.train.step import Passes, Step
from excise.train.task import device_of


@without_autocast()
@torch.enable_grad()
def fit_(
    model: nn.Module,
    passes: Passes,
    rows: Mapping[str, Rows],
    plan: TrainPlan,
    mask: Mask,
    engine: Engine,
    *,
    stage: str,
    statistics: Statistics = "follow-mask",
    batch_sizes: Mapping[str, int] | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Minimise objectives over the coordinates in `mask`, in place, with one optimizer.

    Args:
        model: changed in place, inside the mask only.
        passes: what each epoch consists of.
        rows: by name of stream.
        plan: optimizer, schedule, batches.
        mask: where change is allowed.
        engine: task, seed, hooks; counts the cost. Where it has checkpoints, the training goes on from the last of its own.
        stage: name for progress and traces, and purpose of the random numbers.
        statistics: rule for buffers, see `masked`.
        batch_sizes: examples a batch of a stream, where not the plan's.
        after_epoch: called with the epoch when it is over, to look at the network; what it remembers from one epoch to the
            next is in the checkpoints if it is a `Remembers`.

    Raises:
        errors.Diverged: an objective, a weight or a buffer stopped being finite; carries the state after the last sound
            epoch, which is also what `model` then holds.
    """
    single = next(model.buffers(), None) is None  # batch statistics need two rows
    sizes = {name: (batch_sizes or {}).get(name, plan.batch_size) for name in rows}
    steps = {
        name: num_batches(len(some), sizes[name], drop_last=plan.drop_last, keep_single=single)
        for name, some in rows.items()
    }
    streams = [[part.streams for part in passes(epoch)] for epoch in range(plan.epochs)]
    every = [sum(steps[pace] for pace, *_ in some) for some in streams]
    way = engine.machine.way(model, sum(every))
    engine.hooks.on_stage(stage, sum(every))
    with (
        laid_out(model, way, mask),
        enforced(model, mask, statistics, engine.slow) as free,
        seeds.isolated(engine.seed, stage, "loop"),
        ExitStack() as ending,
    ):
        optimizer = plan.make_optimizer(free.leaves) if free.leaves else None
        sound = Sound(model, free, stage)
        carried = Carried(
            network=NetworkState(model, free),
            sound=sound,
            optimizer=OptimizerState(optimizer),
            watch=after_epoch if isinstance(after_epoch, Remembers) else None,
        )
        schedule = Schedule(passes, rows, sizes, plan, engine.seed, single)
        run = Running(model, engine.task, way, compiled(model, way, sizes.values(), engine.hooks, stage))
        facts = {"plan": plan, "statistics": statistics, "sizes": sizes, "steps": steps, **way.facts(), **_read(rows)}
        with _saved(stage, model, mask, facts, carried, engine) as saved:
            at = saved.resume_() if saved is not None else Position()
            feed = ending.enter_context(closing(Feed(schedule, (at.epoch, at.step), device_of(model))))
            readings = readings_of(rows, sizes, plan, streams[at.epoch :], keep_single=single)
            kept = {} if plan.augment else keep_activations(model, readings, engine, stage, way)
            if at == Position():  # a run that goes on was charged for it when it began
                engine.cost.count(forward=sum(one.num_run for one in kept.values()))
            for epoch in range(at.epoch, plan.epochs):
                started = time.perf_counter() - at.epoch_seconds
                losses = Losses(sound.require_finite, looks_every(way.kind), epoch, at.loss_sum)
                for group in optimizer.param_groups if optimizer else ():
                    group["lr"] = plan.lr_at(epoch)
                for index, objective, ids in schedule.steps(epoch, at.step):
                    loss = objective(Step(model, epoch, index, engine, feed.read(epoch, index, ids, kept), kept, run))
                    losses.add(loss)
                    # a mask may hold only what the loss does not reach
                    if optimizer is not None and loss.requires_grad:
                        free.backward(loss)
                        free.step(optimizer, plan.clip_norm)
                        optimizer.zero_grad()
                    engine.hooks.on_step()
                    if saved is not None:
                        saved.after_step(epoch, index + 1, losses.total, time.perf_counter() - started)
                total = losses.total()
                sound.keep(epoch)
                seconds = time.perf_counter() - started
                engine.record(
                    EpochTrace(stage, epoch, total / max(every[epoch], 1), plan.lr_at(epoch), every[epoch], seconds)
                )
                if after_epoch is not None:
                    with nullcontext() if saved is None else saved.looking():
                        after_epoch(epoch)
                at = Position()
                if saved is not None:
                    saved.after_epoch(epoch + 1, last=epoch + 1 == plan.epochs)
    engine.hooks.on_stage_end(stage)


def _read(rows: Mapping[str, Rows]) -> dict[str, Any]:
    """Name the streams that workers read: what their data draw is drawn otherwise."""
    ahead = sorted(name for name, some in rows.items() if some.source.workers)
    return {"workers": ahead} if ahead else {}


def _saved(
    stage: str, model: nn.Module, mask: Mask, facts: Mapping[str, Any], carried: Carried, engine: Engine
) -> AbstractContextManager[Stage | None]:
    """Enter a stage of the engine's checkpoints, if there are any."""
    if engine.checkpoints is None:
        return nullcontext()
    slow = None if engine.slow is None else (engine.slow[0].digest, engine.slow[1])
    told = {**facts, "mask": mask.digest, "slow": slow, "seed": engine.seed}
    return engine.checkpoints.stage(stage, model, msgspec.to_builtins(told), carried, engine)
