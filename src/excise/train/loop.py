"""The only loop over epochs. Trains, retrains, finetunes and ascends; knows no method's name."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from excise import errors, params, seeds
from excise.data.batches import Batch, in_batches, num_batches, order_of, read_batch
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train.checkpoints import Carried, Position, Remembers, Stage
from excise.train.engine import Engine
from excise.train.hooks import EpochTrace
from excise.train.masked import MaskedParameters, Statistics, enforced
from excise.train.plan import TrainPlan
from excise.train.statistics import running_statistics_used
from excise.train.task import device_of


@dataclass(frozen=True, eq=False)
class Step:
    """What an objective may look at.

    A batch of one row (a request for one person, say) is normalised by the running statistics and does not move them: it
    has no statistics of its own.

    Attributes:
        model: the network, in training mode.
        epoch: counted from 0.
        index: of the step within its epoch, counted from 0.
        batches: one a stream of the pass.
    """

    model: nn.Module
    epoch: int
    index: int
    engine: Engine
    batches: Mapping[str, Batch]

    def _training(self, batch: Batch) -> AbstractContextManager[None]:
        return running_statistics_used(self.model) if len(batch) == 1 else nullcontext()

    def mean_loss(self, stream: str) -> Tensor:
        """Give the mean loss over the step's batch of `stream` (`retain`, `forget` or `train`), one forward pass."""
        batch = self.batches[stream]
        self.engine.cost.count(trained=len(batch))
        with self._training(batch):
            return self.engine.task.losses(self.model, batch).mean()

    def outputs(self, stream: str) -> tuple[Tensor, Tensor]:
        """Give logits and targets of the step's batch of `stream`, one forward pass that is to be followed by a backward."""
        batch = self.batches[stream]
        self.engine.cost.count(trained=len(batch))
        with self._training(batch):
            return self.engine.task.forward(self.model, batch.content)

    @torch.no_grad()
    def outputs_of(self, network: nn.Module, stream: str) -> Tensor:
        """Give another network's logits on the step's batch of `stream`, without gradient."""
        batch = self.batches[stream]
        self.engine.cost.count(forward=len(batch))
        return self.engine.task.forward(network, batch.content)[0]

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Give a generator for one purpose in this very step, a pure function of the run's seed."""
        return seeds.generator(self.engine.seed, *purpose, self.epoch, self.index)

    @torch.no_grad()
    def observe(self, stream: str) -> None:
        """Run the step's batch of `stream` forward only, for the running statistics."""
        batch = self.batches[stream]
        self.engine.cost.count(forward=len(batch))
        with self._training(batch):
            self.engine.task.forward(self.model, batch.content)


Objective = Callable[[Step], Tensor]


@dataclass(frozen=True)
class Pass:
    """A part of an epoch: what is minimised, over which rows.

    Attributes:
        objective: `(Step) -> scalar`.
        streams: rows by name. The first paces the pass; the others are cycled through.
    """

    objective: Objective
    streams: tuple[str, ...]


Passes = Callable[[int], Sequence[Pass]]
"""From an epoch, counted from 0, to its passes, in order."""


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
    every = [sum(steps[part.streams[0]] for part in passes(epoch)) for epoch in range(plan.epochs)]
    engine.hooks.on_stage(stage, sum(every))
    with enforced(model, mask, statistics, engine.slow) as free, seeds.isolated(engine.seed, stage, "loop"):
        optimizer = plan.make_optimizer(free.leaves) if free.leaves else None
        sound = _Sound(model, free)
        carried = Carried(
            network=_Network(model, free),
            sound=sound,
            optimizer=_Optimizer(optimizer),
            watch=after_epoch if isinstance(after_epoch, Remembers) else None,
        )
        facts = {"plan": plan, "statistics": statistics, "sizes": sizes, "steps": steps}
        with _saved(stage, model, mask, facts, carried, engine) as saved:
            at = saved.resume_() if saved is not None else Position()
            for epoch in range(at.epoch, plan.epochs):
                started, total = time.perf_counter() - at.epoch_seconds, at.loss_sum
                for group in optimizer.param_groups if optimizer else ():
                    group["lr"] = plan.lr_at(epoch)
                orders = {
                    name: _orders(some, name, sizes[name], epoch, plan, engine, keep_single=single)
                    for name, some in rows.items()
                }
                every_step = enumerate(_steps(passes(epoch), orders))
                for index, (objective, ids) in itertools.islice(every_step, at.step, None):
                    now = {name: read_batch(rows[name].source, some, device_of(model)) for name, some in ids.items()}
                    loss = objective(Step(model, epoch, index, engine, now))
                    total += sound.require_finite(loss, stage, epoch)
                    # a mask may hold only what the loss does not reach
                    if optimizer is not None and loss.requires_grad:
                        loss.backward()  # type: ignore[no-untyped-call]
                        free.step(optimizer, plan.clip_norm)
                        optimizer.zero_grad()
                    engine.hooks.on_step()
                    if saved is not None:
                        saved.after_step(epoch, index + 1, total, time.perf_counter() - started)
                sound.keep(stage, epoch)
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


def _saved(
    stage: str, model: nn.Module, mask: Mask, facts: Mapping[str, Any], carried: Carried, engine: Engine
) -> AbstractContextManager[Stage | None]:
    """Enter a stage of the engine's checkpoints, if there are any."""
    if engine.checkpoints is None:
        return nullcontext()
    slow = None if engine.slow is None else (engine.slow[0].digest, engine.slow[1])
    told = {**facts, "mask": mask.digest, "slow": slow, "seed": engine.seed}
    return engine.checkpoints.stage(stage, model, msgspec.to_builtins(told), carried, engine)


def _steps(
    passes: Sequence[Pass], orders: Mapping[str, Callable[[], Iterator[Tensor]]]
) -> Iterator[tuple[Objective, dict[str, Tensor]]]:
    """Give each step of an epoch: its objective, and the ids of one batch a stream. No row is read."""
    cycled = {name: _cycle(order) for name, order in orders.items()}
    for part in passes:
        pace, *others = part.streams
        for ids in orders[pace]():
            yield part.objective, {pace: ids, **{name: next(cycled[name]) for name in others}}


def _orders(
    rows: Rows, name: str, size: int, epoch: int, plan: TrainPlan, engine: Engine, *, keep_single: bool
) -> Callable[[], Iterator[Tensor]]:
    """Give the batches of a round, as ids, at each call; their order is a pure function of seed, stream, epoch and round."""
    rounds = itertools.count()

    def draw() -> Iterator[Tensor]:
        shuffle = seeds.generator(engine.seed, name, epoch, next(rounds)) if plan.shuffle else None
        return iter(in_batches(order_of(rows, shuffle), size, drop_last=plan.drop_last, keep_single=keep_single))

    return draw


def _cycle(draw: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
    while True:
        yield from draw()


class _Network:
    """The chosen coordinates of a network and its buffers, as they are."""

    def __init__(self, model: nn.Module, free: MaskedParameters) -> None:
        self._model, self._free = model, free

    def remembered(self) -> dict[str, Tensor]:
        leaves = {f"value/{place}": leaf for place, leaf in enumerate(self._free.leaves)}
        return leaves | {f"buffer/{name}": buffer for name, buffer in self._model.named_buffers()}

    @torch.no_grad()
    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        self._free.restore_([tensors[f"value/{place}"] for place in range(len(self._free.leaves))])
        for name, buffer in self._model.named_buffers():
            buffer.copy_(tensors[f"buffer/{name}"])


class _Optimizer:
    """The state of torch's optimizer; its settings follow from the plan."""

    def __init__(self, optimizer: torch.optim.Optimizer | None) -> None:
        self._optimizer = optimizer

    def remembered(self) -> dict[str, Tensor]:
        state = {} if self._optimizer is None else self._optimizer.state_dict()["state"]
        each = ((f"{place}/{name}", value) for place, own in state.items() for name, value in own.items())
        return {name: value for name, value in each if value is not None}

    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            place, _, name = key.partition("/")
            state.setdefault(int(place), {})[name] = value.clone()
        if self._optimizer is not None:
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})


class _Sound:
    """The last state in which everything was finite: the chosen coordinates and the buffers."""

    def __init__(self, model: nn.Module, free: MaskedParameters) -> None:
        self._model, self._free = model, free
        self._values, self._buffers = free.values(), params.snapshot(dict(model.named_buffers()))

    def remembered(self) -> dict[str, Tensor]:
        values = {f"value/{place}": value for place, value in enumerate(self._values)}
        return values | {f"buffer/{name}": buffer for name, buffer in self._buffers.items()}

    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what was sound; where nothing is said of it, the network as it is."""
        if not tensors:
            self._take()
            return
        for place, kept in enumerate(self._values):
            kept.copy_(tensors[f"value/{place}"])
        for name, kept in self._buffers.items():
            kept.copy_(tensors[f"buffer/{name}"])

    def keep(self, stage: str, epoch: int) -> None:
        if not self._free.finite():
            self._stop(f"{stage}: a weight stopped being finite in epoch {epoch + 1}")
        for name, buffer in self._model.named_buffers():
            if bool((self._buffers[name].isfinite() & ~buffer.isfinite()).any()):  # one may be built of infinities
                self._stop(f"{stage}: buffer {name!r} stopped being finite in epoch {epoch + 1}")
        self._take()

    def _take(self) -> None:
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
