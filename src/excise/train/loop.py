"""The only loop over epochs. Trains, retrains, finetunes and ascends; knows no method's name."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from excise import errors, params, seeds
from excise.data.batches import Batch, UnreadBatch, num_batches, read_batch
from excise.data.rows import Rows
from excise.distributed import normalised_together, sharded
from excise.masks import Mask
from excise.train.activations import Activations, keep_activations
from excise.train.checkpoints import Carried, Position, Remembers, Stage
from excise.train.engine import Engine
from excise.train.hooks import EpochTrace
from excise.train.masked import Statistics, enforced, frozen_digest
from excise.train.order import order_of_stream, readings_of, steps_of
from excise.train.plan import TrainPlan
from excise.train.sound import NetworkState, OptimizerState, Sound
from excise.train.step import Passes, Step
from excise.train.task import device_of


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

    Several processes take the same steps together: each draws the same order, reads its share of every batch, and only
    gradients of what may change are exchanged. Layers that draw random numbers draw others in each process. Activations are
    not kept then: a process's share is of other rows in every epoch.

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
        errors.BadRequest: an objective came to different values in different processes.
        errors.UnsupportedModel: so did a buffer, or the network has a layer whose statistics cannot be taken together.
    """
    single = next(model.buffers(), None) is None  # batch statistics need two rows
    sizes = {name: (batch_sizes or {}).get(name, plan.batch_size) for name in rows}
    steps = {
        name: num_batches(len(some), sizes[name], drop_last=plan.drop_last, keep_single=single)
        for name, some in rows.items()
    }
    streams = [[part.streams for part in passes(epoch)] for epoch in range(plan.epochs)]
    every = [sum(steps[pace] for pace, *_ in some) for some in streams]
    engine.hooks.on_stage(stage, sum(every))
    together, own = engine.processes, () if engine.processes.is_first else (engine.processes.rank,)
    with (
        sharded(model, together) as twin,
        enforced(model := twin.network, mask, statistics, engine.slow, together) as free,
        normalised_together(model, together) as joint,
        seeds.isolated(engine.seed, stage, "loop", *own),
        _frozen_kept(model, mask, statistics, stage, engine),
    ):
        optimizer = plan.make_optimizer(free.leaves) if free.leaves else None
        sound = Sound(model, free)
        carried = Carried(
            network=NetworkState(model, free),
            sound=sound,
            optimizer=OptimizerState(optimizer),
            watch=after_epoch if isinstance(after_epoch, Remembers) else None,
        )
        facts = {"plan": plan, "statistics": statistics, "sizes": sizes, "steps": steps}
        with _saved(stage, model, mask, facts, carried, engine) as saved:
            at = saved.resume_() if saved is not None else Position()
            readings = readings_of(rows, sizes, plan, streams[at.epoch :], keep_single=single)
            kept = {} if together.several else keep_activations(model, readings, engine, stage)
            if at == Position():  # a run that goes on was charged for it when it began
                engine.cost.count(forward=sum(one.num_run for one in kept.values()))
            for epoch in range(at.epoch, plan.epochs):
                started, total = time.perf_counter() - at.epoch_seconds, at.loss_sum
                for group in optimizer.param_groups if optimizer else ():
                    group["lr"] = plan.lr_at(epoch)
                orders = {
                    name: order_of_stream(some, name, sizes[name], epoch, plan, engine.seed, keep_single=single)
                    for name, some in rows.items()
                }
                every_step, agreed = enumerate(steps_of(passes(epoch), orders)), None
                for index, (objective, ids) in itertools.islice(every_step, at.step, None):
                    now = {name: _batch(model, rows[name], some, kept.get(name), engine) for name, some in ids.items()}
                    loss = objective(Step(model, epoch, index, engine, now, kept, ids, joint, free.shards))
                    if objective is not agreed:
                        _require_one_value(loss, stage, engine)
                        agreed = objective
                    total += sound.require_finite(loss, stage, epoch)
                    # a mask may hold only what the loss does not reach
                    if optimizer is not None and loss.requires_grad:
                        free.backward(loss)
                        free.step(optimizer, plan.clip_norm)
                        optimizer.zero_grad()
                    engine.hooks.on_step()
                    if saved is not None:
                        saved.after_step(epoch, index + 1, total, time.perf_counter() - started)
                sound.keep(stage, epoch)
                _require_one_network(model, free.leaves if epoch + 1 == plan.epochs else [], stage, engine)
                seconds = time.perf_counter() - started
                engine.record(
                    EpochTrace(stage, epoch, total / max(every[epoch], 1), plan.lr_at(epoch), every[epoch], seconds)
                )
                if after_epoch is not None:
                    twin.write_back_()
                    with nullcontext() if saved is None else saved.looking():
                        after_epoch(epoch)
                at = Position()
                if saved is not None:
                    saved.after_epoch(epoch + 1, last=epoch + 1 == plan.epochs)
    engine.hooks.on_stage_end(stage)


def _batch(model: nn.Module, rows: Rows, ids: Tensor, kept: Activations | None, engine: Engine) -> Batch:
    """Read this process's rows of a batch, or its first row where there are none, see `Step`.

    Where activations are kept, they are read only if somebody asks for their content.
    """
    unread, own = kept is not None and kept.serves(len(ids)), engine.processes.share(ids)
    return (UnreadBatch if unread else read_batch)(rows.source, own if len(own) else ids[:1], device_of(model))


def _require_one_value(loss: Tensor, stage: str, engine: Engine) -> None:
    engine.processes.require_same(
        {f"value of the objective of {stage}": float(loss.detach()).hex()},
        "take means over rows by step.mean or step.mean_loss, and (with fsdp) sums over weights by step.total",
        errors.BadRequest,
    )


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
    if engine.processes.anywhere(fact=frozen_digest(model, mask, statistics) != before):
        raise errors.Refused(f"{stage}: something outside the mask moved in a shard; the result was dropped")


def _saved(
    stage: str, model: nn.Module, mask: Mask, facts: Mapping[str, Any], carried: Carried, engine: Engine
) -> AbstractContextManager[Stage | None]:
    """Enter a stage of the engine's checkpoints, if there are any."""
    if engine.checkpoints is None:
        return nullcontext()
    slow = None if engine.slow is None else (engine.slow[0].digest, engine.slow[1])
    told = {**facts, "mask": mask.digest, "slow": slow, "seed": engine.seed}
    return engine.checkpoints.stage(stage, model, msgspec.to_builtins(told), carried, engine)
