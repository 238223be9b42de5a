"""The only loop over epochs. Trains, retrains, finetunes and ascends; knows no method's name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from excise import errors, params, seeds
from excise.data.rows import Rows
from excise.distributed import normalised_together, reshard_, sharded
from excise.masks import Mask
from excise.train.activations import keep_activations
from excise.train.checkpoints import Carried, Position, Remembers, Stage
from excise.train.compiling import compiled
from excise.train.engine import Engine
from excise.train.feeding import Feed
from excise.train.hooks import EpochTrace
from excise.train.losses import Losses, looks_every
from excise.train.masked import MaskedParameters, Statistics, enforced, frozen_digest
from excise.train.order import Schedule, readings_of
from excise.train.plan import TrainPlan
from excise.train.projection import Projection, projection_digest
from excise.train.running import PLAIN, Running, laid_out, without_autocast
from excise.train.sound import NetworkState, OptimizerState, Sound
from excise.train.step import Objective, Passes, Step
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
    after_epoch: Callable[[int], bool | None] | None = None,
    projection: Projection | None = None,
) -> None:
    """Minimise objectives over the coordinates in `mask`, in place, with one optimizer.

    Several processes take the same steps together: each draws the same order, reads its share of every batch, and only
    gradients of what may change are exchanged. Layers that draw random numbers draw others in each process. Activations are
    not kept then, a process's share is of other rows in every epoch; and nothing is compiled.

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
        after_epoch: called with the epoch when it is over, to look at the network; the training ends there if it gives True
            (in one process, if there are several). What it remembers from one epoch to the next is in the checkpoints if it
            is a `Remembers`.
        projection: directions, by parameter, that no step moves a row in; None for no such.

    Raises:
        errors.Diverged: an objective, a weight or a buffer stopped being finite; carries the state after the last sound
            epoch, which is also what `model` then holds.
        errors.BadRequest: an objective came to different values in different processes.
        errors.UnsupportedModel: so did a buffer, or the network has a layer whose statistics cannot be taken together.
    """
    single = next(model.buffers(), None) is None  # batch statistics need two rows
    sizes = {name: (batch_sizes or {}).get(name, plan.batch_size) for name in rows}
    schedule = Schedule(passes, rows, sizes, plan, engine.seed, single)
    steps = schedule.num_batches
    parts = [passes(epoch) for epoch in range(plan.epochs)]
    every = [sum(part.num_steps(steps) for part in some) for some in parts]
    way = engine.machine.way(model, sum(every))
    engine.hooks.on_stage(stage, sum(every))
    together, own = engine.processes, () if engine.processes.is_first else (engine.processes.rank,)
    with (
        sharded(model, together) as twin,
        laid_out(model := twin.network, PLAIN if together.sharded else way, mask),
        enforced(model, mask, statistics, engine.slow, together, projection) as free,
        normalised_together(model, together) as joint,
        seeds.isolated(engine.seed, stage, "loop", *own),
        _frozen_kept(model, mask, statistics, stage, engine),
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
        made = None if together.several else compiled(model, way, sizes.values(), engine.hooks, stage)
        run = Running(model, engine.task, way, made)
        facts = {"plan": plan, "statistics": statistics, "sizes": sizes, "steps": steps, **way.facts()}
        facts |= {**_read(rows), **({"projection": projection_digest(projection)} if projection else {})}
        with _saved(stage, model, mask, facts, carried, engine) as saved:
            at = saved.resume_() if saved is not None else Position()
            feed = ending.enter_context(closing(Feed(schedule, (at.epoch, at.step), device_of(model), together)))
            readings = readings_of(rows, sizes, plan, parts[at.epoch :], keep_single=single)
            alone = not (plan.augment or together.several)
            kept = keep_activations(model, readings, engine, stage, way) if alone else {}
            if at == Position():  # a run that goes on was charged for it when it began
                engine.cost.count(forward=sum(one.num_run for one in kept.values()))
            for epoch in range(at.epoch, plan.epochs):
                started = time.perf_counter() - at.epoch_seconds
                losses = Losses(sound.require_finite, looks_every(way.kind), epoch, at.loss_sum)
                for group in optimizer.param_groups if optimizer else ():
                    group["lr"] = plan.lr_at(epoch)
                agreed: Objective | None = None
                for index, objective, ids in schedule.steps(epoch, at.step):
                    now = feed.read(epoch, index, ids, kept)
                    loss = objective(Step(model, epoch, index, engine, now, kept, run, ids, joint, free.shards))
                    agreed = _agreed(objective, agreed, loss, stage, engine)
                    losses.add(loss)
                    _minimise(loss, free, optimizer, plan)
                    engine.hooks.on_step()
                    if saved is not None:
                        saved.after_step(epoch, index + 1, losses.total, time.perf_counter() - started)
                total = losses.total()
                sound.keep(epoch)
                ended = epoch + 1 == plan.epochs
                _require_one_network(model, free.leaves if ended or after_epoch else [], stage, engine)
                seconds, mean = time.perf_counter() - started, total / max(every[epoch], 1)
                engine.record(EpochTrace(stage, epoch, mean, plan.lr_at(epoch), every[epoch], seconds))
                if after_epoch is not None:
                    twin.write_back_()
                    ended |= _ended_by(after_epoch, epoch, saved, engine)
                at = Position()
                if saved is not None:
                    saved.after_epoch(plan.epochs if ended else epoch + 1, last=ended)
                if ended:
                    break
    engine.hooks.on_stage_end(stage)


def _minimise(loss: Tensor, free: MaskedParameters, optimizer: torch.optim.Optimizer | None, plan: TrainPlan) -> None:
    """Take one step down a loss; a mask may hold only what it does not reach."""
    if optimizer is not None and loss.requires_grad:
        free.backward(loss)
        free.step(optimizer, plan.clip_norm)
        optimizer.zero_grad()


def _ended_by(look: Callable[[int], bool | None], epoch: int, saved: Stage | None, engine: Engine) -> bool:
    """Have the network looked at after an epoch, and say whether the training ends there."""
    with nullcontext() if saved is None else saved.looking():
        return engine.processes.anywhere(fact=look(epoch) is True)


def _agreed(objective: Objective, before: Objective | None, loss: Tensor, stage: str, engine: Engine) -> Objective:
    """Refuse an objective, other than the one before, whose value is not the same in all processes."""
    if objective is not before and engine.processes.several:
        engine.processes.require_same(
            {f"value of the objective of {stage}": float(loss.detach()).hex()},
            "take means over rows by step.mean or step.mean_loss, and (with fsdp) sums over weights by step.total",
            errors.BadRequest,
        )
    return objective


def _require_one_network(model: nn.Module, leaves: list[Tensor], stage: str, engine: Engine) -> None:
    if engine.processes.several:
        values = {str(place): leaf for place, leaf in enumerate(leaves if not engine.processes.sharded else ())}
        engine.processes.require_same(
            {
                f"buffers after an epoch of {stage}": params.digest(dict(model.named_buffers())),
                f"weights after {stage}": params.digest(values),
            },
            "a module that keeps statistics of its rows cannot share them, and machines must compute alike; "
            "use one process",
            errors.UnsupportedModel,
        )


@contextmanager
def _frozen_kept(model: nn.Module, mask: Mask, statistics: Statistics, stage: str, engine: Engine) -> Iterator[None]:
    """Where a network is sharded, hold it to the mask's promise in each process, for what lies there."""
    if not engine.processes.sharded:
        yield
        return
    before = frozen_digest(model, mask, statistics)
    yield
    reshard_(model)
    if engine.processes.anywhere(fact=frozen_digest(model, mask, statistics) != before):
        raise errors.Refused(f"{stage}: something outside the mask moved in a shard; the result was dropped")


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
