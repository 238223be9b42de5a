"""The only loop over epochs. Trains, retrains, finetunes and ascends; knows no method's name."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import errors, params, seeds
from excise.data.batches import Batch, batches, num_batches
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.hooks import EpochTrace
from excise.train.masked import MaskedParameters, Statistics, enforced
from excise.train.plan import TrainPlan
from excise.train.task import device_of


@dataclass(frozen=True, eq=False)
class Step:
    """What an objective may look at.

    Attributes:
        model: the network, in training mode.
        epoch: counted from 0.
    """

    model: nn.Module
    epoch: int
    engine: Engine
    batches: Mapping[str, Batch]

    def mean_loss(self, stream: str) -> Tensor:
        """Give the mean loss over the step's batch of `stream` (`retain` or `forget`), one forward pass."""
        batch = self.batches[stream]
        self.engine.cost.count(trained=len(batch))
        return self.engine.task.losses(self.model, batch).mean()

    @torch.no_grad()
    def observe(self, stream: str) -> None:
        """Run the step's batch of `stream` forward only, for the running statistics."""
        batch = self.batches[stream]
        self.engine.cost.count(forward=len(batch))
        self.engine.task.forward(self.model, batch.content)


Objective = Callable[[Step], Tensor]


@torch.enable_grad()
def fit_(
    model: nn.Module,
    objective: Objective,
    streams: Mapping[str, Rows],
    plan: TrainPlan,
    mask: Mask,
    engine: Engine,
    *,
    stage: str,
    statistics: Statistics = "follow-mask",
    batch_sizes: Mapping[str, int] | None = None,
) -> None:
    """Minimise an objective over the coordinates in `mask`, in place.

    Args:
        model: changed in place, inside the mask only.
        objective: `(Step) -> scalar`.
        streams: rows by name. The first paces the epochs; the others are cycled through within each epoch.
        plan: optimizer, schedule, batches.
        mask: where change is allowed.
        engine: task, seed, hooks; counts the cost.
        stage: name for progress and traces, and purpose of the random numbers.
        statistics: rule for buffers, see `masked`.
        batch_sizes: examples a batch of a stream, where not the plan's.

    Raises:
        errors.Diverged: the objective, a weight or a buffer stopped being finite; carries the state after the last sound
            epoch, which is also what `model` then holds.
    """
    pace, others = next(iter(streams)), list(streams)[1:]
    single = next(model.buffers(), None) is None  # batch statistics need two rows
    sizes = {name: (batch_sizes or {}).get(name, plan.batch_size) for name in streams}
    steps = num_batches(len(streams[pace]), sizes[pace], drop_last=plan.drop_last, keep_single=single)
    engine.hooks.on_stage(stage, steps * plan.epochs)
    with enforced(model, mask, statistics) as free, seeds.isolated(engine.seed, stage, "loop"):
        optimizer = plan.make_optimizer(free.leaves) if free.leaves else None
        sound = _Sound(model, free)
        for epoch in range(plan.epochs):
            started, total = time.perf_counter(), 0.0
            for group in optimizer.param_groups if optimizer else ():
                group["lr"] = plan.lr_at(epoch)
            loaders = {
                name: _stream(rows, name, sizes[name], epoch, plan, engine, device_of(model), keep_single=single)
                for name, rows in streams.items()
            }
            cycled = {name: _cycle(loaders[name]) for name in others}
            for batch in loaders[pace]():
                now = {pace: batch, **{name: next(source) for name, source in cycled.items()}}
                loss = _objective_of(objective, Step(model, epoch, engine, now), stage)
                total += sound.require_finite(loss, stage, epoch)
                if optimizer is not None and loss.requires_grad:  # a mask may hold only what the loss does not reach
                    loss.backward()  # type: ignore[no-untyped-call]
                    free.step(optimizer, plan.clip_norm)
                    optimizer.zero_grad()
                engine.hooks.on_step()
            sound.keep(stage, epoch)
            seconds = time.perf_counter() - started
            engine.record(EpochTrace(stage, epoch, total / max(steps, 1), plan.lr_at(epoch), steps, seconds))
    engine.hooks.on_stage_end(stage)


def _objective_of(objective: Objective, step: Step, stage: str) -> Tensor:
    try:
        return objective(step)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise errors.BadRequest(
            f"{stage}: batch normalisation cannot train on a batch of one row; take batches of two rows or more, or keep the "
            'statistics as they are (buffers="hold")'
        ) from error


class _Sound:
    """The last state in which everything was finite: the chosen coordinates and the buffers."""

    def __init__(self, model: nn.Module, free: MaskedParameters) -> None:
        self._model, self._free = model, free
        self._values, self._buffers = free.values(), params.snapshot(dict(model.named_buffers()))

    def keep(self, stage: str, epoch: int) -> None:
        if not self._free.finite():
            self._stop(f"{stage}: a weight stopped being finite in epoch {epoch + 1}")
        for name, buffer in self._model.named_buffers():
            if bool((self._buffers[name].isfinite() & ~buffer.isfinite()).any()):  # one may be built of infinities
                self._stop(f"{stage}: buffer {name!r} stopped being finite in epoch {epoch + 1}")
        for kept, value in zip(self._values, self._free.leaves, strict=True):
            kept.copy_(value.detach())
        for name, buffer in self._model.named_buffers():
            self._buffers[name].copy_(buffer)

    def require_finite(self, loss: Tensor, stage: str, epoch: int) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            self._stop(f"{stage}: the loss became {value} in epoch {epoch + 1}")
        return value

    def _stop(self, what: str) -> None:
        self._free.restore_(self._values)
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                buffer.copy_(self._buffers[name])
        raise errors.Diverged(
            f"{what}; the state after the last sound epoch is kept; try a smaller learning rate, or fewer steps",
            params.state_of(self._model),
        )


def _stream(
    rows: Rows,
    name: str,
    size: int,
    epoch: int,
    plan: TrainPlan,
    engine: Engine,
    device: torch.device,
    *,
    keep_single: bool,
) -> Callable[[], Iterator[Batch]]:
    """Give a loader whose order is a pure function of seed, stream, epoch and round."""
    rounds = itertools.count()

    def load() -> Iterator[Batch]:
        shuffle = seeds.generator(engine.seed, name, epoch, next(rounds)) if plan.shuffle else None
        return batches(rows, size, device, shuffle=shuffle, drop_last=plan.drop_last, keep_single=keep_single)

    return load


def _cycle(load: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    while True:
        yield from load()
