"""Train many small networks as one: each equal to training it alone, but for the order of floating-point sums.

A step of a small network is mostly overhead and small products. With every weight given a leading axis of networks, one
forward and one backward pass serve them all: the sum of the networks' mean losses has as its gradient each network's own,
since no network's loss depends on another's weights, and the optimizers of `TrainPlan` work element by element.

Networks are taken through the whole training in groups, so that a group's activations stay near the processor and memory
is bounded; see `networks_at_once`. Which networks share a group changes nothing but rounding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from excise import errors, params, seeds
from excise.data.batches import batches, in_batches, num_batches, order_of, read_batch
from excise.data.placing import total_bytes
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train.augment import Drawn, augmented, draw, joined
from excise.train.engine import Cost, Engine
from excise.train.hooks import EpochTrace, Hooks
from excise.train.loop import fit_
from excise.train.losses import Losses, looks_every
from excise.train.plan import TrainPlan
from excise.train.running import without_autocast
from excise.train.stacked import Stacked
from excise.train.step import Pass
from excise.train.task import device_of
from excise.train.unstackable import why_not_stacked

NEAR_BYTES = 4 * 2**20
"""Activations of a group that are wanted, so that most of them stay in a processor's cache."""
MOST_BYTES = 2**30
"""Activations of a group that are never passed, unless one network alone takes more."""
FEWEST, MOST = 16, 64
"""Networks of a group: with fewer than 16 the overhead of a step shows, with more than 64 none is left to save."""
SHARE_ON_ACCELERATOR = 0.25
"""Of an accelerator's memory, what a group may take there. It has no cache to stay in, and the more the better."""
MOST_ON_ACCELERATOR = 1024
"""Networks of a group there: with as many, steps of the smallest networks are no longer overhead."""
COPIES = 6
"""Of a network's weights that are held meanwhile: its own, stacked, gradient, two of the optimizer, the last sound."""


@without_autocast()
@torch.enable_grad()
def fit_together_(
    models: Sequence[nn.Module],
    rows: Sequence[Rows],
    plan: TrainPlan,
    train_seeds: Sequence[int],
    engine: Engine,
    *,
    stage: str,
) -> None:
    """Train every network in place on its own rows, each as `fit_` would train it alone on the stream `retain`.

    The mask is full and running statistics adapt. The order of a network's rows is the same pure function of its seed,
    so is everything else; results differ from training alone by rounding (1e-5 in float32 over a short training; a long
    one may amplify it, as it does a change of the number of threads).

    Cost: the rows that training alone would count. Memory: weights, gradients, the optimizer's state and a copy of the
    last sound state, once for each network of a group, and the activations of `networks_at_once` networks.

    Args:
        models: networks that differ in values alone; changed in place, when their group is done.
        rows: one each, of one data set; often all the same. Networks share a group only with equally many rows.
        plan: for all of them.
        train_seeds: one each.
        engine: task and hooks; its own seed is not used. Counts the cost; a step is one of a whole group, and each group
            records its own epochs, with the mean of its losses.
        stage: name for progress and traces.

    Raises:
        errors.BadRequest: other numbers of rows or seeds than of networks, networks that differ, or what
            `why_not_together` says.
        errors.Diverged: a loss, a weight or a buffer of a network stopped being finite; says which. It carries that
            network's state after the last epoch in which its whole group was sound; the group's networks then hold theirs,
            networks of later groups are untrained.
    """
    if not len(models) == len(rows) == len(train_seeds):
        raise errors.BadRequest(
            f"expected rows and a seed for each network, found {len(models)} networks, {len(rows)} sets of rows and "
            f"{len(train_seeds)} seeds"
        )
    if not models:
        return
    if len({id(model) for model in models}) < len(models):
        raise errors.BadRequest("expected networks of their own to train together, found the same object twice")
    reason = why_not_together(models[0], rows, plan, engine)
    if reason is not None:
        raise errors.BadRequest(f"{stage}: these networks cannot be trained together: {reason}; train them one by one")
    members = [_Member(i + 1, len(models), models[i], rows[i], train_seeds[i]) for i in range(len(models))]
    groups = list(_groups(members, networks_at_once(models[0], rows[0], plan, engine)))
    engine.hooks.on_stage(stage, plan.epochs * sum(_num_steps(group[0].model, group[0].rows, plan) for group in groups))
    for group in groups:
        _fit_group_(group, plan, engine, stage)
    engine.hooks.on_stage_end(stage)


def why_not_together(model: nn.Module, rows: Rows | Sequence[Rows], plan: TrainPlan, engine: Engine) -> str | None:
    """Say why networks like this one, on these rows, cannot be trained together by this plan; None if they can.

    Found out before any work: two steps of two copies on a few rows, alone and together, must agree in losses, gradients
    and buffers. Costs less than ten plain steps; leaves the network and all random state as they were.

    Returns:
        A clause for people, such as "it draws random numbers in training".
    """
    del plan  # every plan's optimizer works element by element
    if engine.slow is not None:
        return "some coordinates are to change more slowly"
    each = [rows] if isinstance(rows, Rows) else rows
    sizes = sorted({len(some) for some in each})
    if not sizes or sizes[0] == 0:
        return "there are no rows"
    if len(sizes) == len(each) > 1:
        return f"their numbers of rows all differ ({sizes[0]} to {sizes[-1]}), and so would their steps"
    return why_not_stacked(model, each, engine)


def why_slower_together(
    model: nn.Module, rows: Sequence[Rows], plan: TrainPlan, engine: Engine, num_models: int
) -> str | None:
    """Say why training together would take longer here than one by one; None if it pays.

    A few steps of each are timed, in turn, on throw-away copies at the real sizes; the fastest counts. A matter of
    timing: the answer may differ from run to run, and with it the last digits of a result. Where results must repeat to
    the bit, decide by hand. Ask `why_not_together` first.

    Returns:
        A clause such as "one at a time is faster here (1.3 ms against 2.0 ms a network and step)".
    """
    count = min(num_models, networks_at_once(model, rows[0], plan, engine))
    size = min(len(rows[0]), TIMED_STEPS * plan.batch_size)
    some = [Rows(one.source, one.ids[:size]) for one in rows[:1]] * count
    per_epoch = _num_steps(model, some[0], plan)
    still = msgspec.structs.replace(
        plan, lr=0.0, weight_decay=0.0, schedule="constant", milestones=(), epochs=-(-TIMED_STEPS // per_epoch)
    )
    copies = [params.clone_model(model) for _ in range(count)]
    kind = device_of(model).type
    alone, together = _Clock(kind), _Clock(kind)
    try:
        for _ in range(2):
            for clock, members in ((alone, 1), (together, count)):
                own = replace(engine, hooks=clock, cost=Cost(), trace=[])
                given = [_Member(i + 1, count, copies[i], some[i], i) for i in range(members)]
                if clock is alone:
                    _fit_alone_(given[0], still, own)
                else:
                    _fit_group_(given, still, own, "timing")
    except errors.Diverged:  # the training itself will say so
        return None
    ours, theirs = together.step_seconds() / count, alone.step_seconds()
    if ours < theirs:
        return None
    return f"one at a time is faster here ({1e3 * theirs:.2g} ms against {1e3 * ours:.2g} ms a network and step)"


TIMED_STEPS = 5


def networks_at_once(model: nn.Module, rows: Rows, plan: TrainPlan, engine: Engine) -> int:
    """Give the number of networks to a group: a function of shapes and device, so that a run can be repeated to the bit.

    On a CPU as many as keep a group's activations, of one full batch each, below `NEAR_BYTES`, but 16 at least and 64 at
    most; and so few that they stay below `MOST_BYTES`. On an accelerator as many as take, weights included, at most
    `SHARE_ON_ACCELERATOR` of all its memory (what is free changes from run to run), 1024 at most. Activations are what a
    forward pass over at most 8 rows keeps for the backward pass.
    """
    few = min(8, len(rows))
    kept: dict[int, int] = {}
    copy = params.clone_model(model).train()
    own = {value.untyped_storage().data_ptr() for value in copy.parameters()}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with seeds.isolated(0, "probe"), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda it: it):
        batch = next(iter(batches(rows.head(few), few, device_of(copy))))
        losses = engine.task.losses(copy, batch)
    del losses
    activations = max(1, sum(kept.values()) * min(plan.batch_size, len(rows)) // few)
    weights = sum(value.numel() * value.element_size() for value in copy.parameters())
    return group_size(activations, weights, total_bytes(device_of(copy)))


def group_size(activations: int, weights: int, total: int | None) -> int:
    """Give the number of networks to a group from the bytes of one, and those of the accelerator; None for a CPU.

    >>> group_size(2**20, 2**20, None), group_size(2**20, 2**20, 14 * 2**30)
    (16, 512)
    """
    if total is None:
        return max(1, min(MOST, max(FEWEST, NEAR_BYTES // activations), MOST_BYTES // activations))
    return max(1, min(MOST_ON_ACCELERATOR, int(SHARE_ON_ACCELERATOR * total) // (activations + COPIES * weights)))


class _Member(msgspec.Struct, frozen=True):
    """A network of a group: its number among all, counted from 1."""

    number: int
    num_models: int
    model: nn.Module
    rows: Rows
    seed: int


def _groups(members: Sequence[_Member], size: int) -> Iterator[list[_Member]]:
    """Give groups of members with equally many rows, of nearly equal size and at most `size` to a group."""
    by_length: dict[int, list[_Member]] = {}
    for member in members:
        by_length.setdefault(len(member.rows), []).append(member)
    for some in by_length.values():
        for places in torch.arange(len(some)).tensor_split(-(-len(some) // size)):
            yield [some[place] for place in places.tolist()]


def _num_steps(model: nn.Module, rows: Rows, plan: TrainPlan) -> int:
    return num_batches(len(rows), plan.batch_size, drop_last=plan.drop_last, keep_single=_keep_single(model))


def _keep_single(model: nn.Module) -> bool:
    return next(model.buffers(), None) is None  # batch statistics need two rows, see `fit_`


def _fit_group_(group: Sequence[_Member], plan: TrainPlan, engine: Engine, stage: str) -> None:
    way = engine.machine.way(group[0].model)
    stack = Stacked([member.model for member in group], engine.task, way)
    optimizer = plan.make_optimizer(stack.leaves.values()) if stack.leaves else None
    sound = _Sound(stack, group, stage)
    with seeds.isolated(engine.seed, stage, "loop"):
        for epoch in range(plan.epochs):
            started, num_steps = time.perf_counter(), 0
            seen = Losses(sound.require_finite, looks_every(way.kind), epoch)
            for settings in optimizer.param_groups if optimizer else ():
                settings["lr"] = plan.lr_at(epoch)
            for index, ids in enumerate(_epoch(group, plan, epoch)):
                drawn = _draw(group, plan, ids.shape[1], epoch, index)
                losses = _mean_losses(stack, group[0].rows, ids, engine, plan, drawn)
                seen.add(losses)
                if optimizer is not None and losses.requires_grad:
                    losses.sum().backward()  # type: ignore[no-untyped-call]
                    if plan.clip_norm is not None:
                        stack.clip_(plan.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                num_steps += 1
                engine.hooks.on_step()
            total = seen.total()
            sound.keep(epoch)
            seconds = time.perf_counter() - started
            engine.record(EpochTrace(stage, epoch, total / max(num_steps, 1), plan.lr_at(epoch), num_steps, seconds))
    stack.write_()


def _epoch(group: Sequence[_Member], plan: TrainPlan, epoch: int) -> Iterator[Tensor]:
    """Give the ids of each step, `[models, batch]`: every network's own order of its own rows, as `fit_` draws it."""
    shuffles = (seeds.generator(member.seed, "retain", epoch, 0) if plan.shuffle else None for member in group)
    orders = torch.stack([order_of(member.rows, shuffle) for member, shuffle in zip(group, shuffles, strict=True)])
    single = _keep_single(group[0].model)
    yield from in_batches(orders, plan.batch_size, drop_last=plan.drop_last, keep_single=single)


def _draw(group: Sequence[_Member], plan: TrainPlan, num_images: int, epoch: int, index: int) -> Drawn | None:
    """Draw every network's own augmentation, as `fit_` draws it."""
    if not plan.augment:
        return None
    return joined([draw(plan.augment, num_images, one.seed, "retain", epoch, index) for one in group])


def _mean_losses(
    stack: Stacked, rows: Rows, ids: Tensor, engine: Engine, plan: TrainPlan, drawn: Drawn | None
) -> Tensor:
    batch = read_batch(rows.source, ids.flatten(), stack.device)
    whole = augmented(batch.content, plan.augment, drawn) if plan.augment and drawn else batch.content
    content = tree_map(lambda value: value.unflatten(0, ids.shape), whole)
    engine.cost.count(trained=len(batch))
    return stack.mean_losses(content, ids.shape[1])


class _Sound:
    """The last state in which every network of a group was finite."""

    def __init__(self, stack: Stacked, group: Sequence[_Member], stage: str) -> None:
        self._stack, self._group, self._stage = stack, group, stage
        self._values = stack.values()

    def require_finite(self, losses: Tensor, epoch: int) -> float:
        """Give the mean loss over the networks."""
        found = losses.detach()
        if not bool(found.isfinite().all()):
            index = int((~found.isfinite()).nonzero()[0])
            self._stop(index, f"the loss became {float(found[index])} in epoch {epoch + 1}")
        return float(found.mean())

    @torch.no_grad()
    def keep(self, epoch: int) -> None:
        every = {**self._stack.leaves, **self._stack.buffers}
        broken = [self._broken(name, value).any() for name, value in every.items()]
        if broken and bool(torch.stack(broken).any()):  # one look
            name = next(name for name, one in zip(every, broken, strict=True) if bool(one))
            kind = "a weight" if name in self._stack.leaves else "a buffer"
            index = int(self._broken(name, every[name]).nonzero()[0, 0])
            self._stop(index, f"{kind}, {name!r}, stopped being finite in epoch {epoch + 1}")
        for name, value in every.items():
            self._values[name].copy_(value)

    def _broken(self, name: str, value: Tensor) -> Tensor:
        return self._values[name].isfinite() & ~value.isfinite()  # one may be built of infinities

    def _stop(self, index: int, what: str) -> None:
        self._stack.restore_(self._values)
        self._stack.write_()
        member = self._group[index]
        raise errors.Diverged(
            f"{self._stage}: network {member.number} of {member.num_models} (seed {member.seed}): {what}; the state after the "
            "last sound epoch is kept; try a smaller learning rate, or fewer steps",
            params.state_of(member.model),
        )


class _Clock(Hooks):
    """Times steps by when they end; an accelerator is waited for."""

    def __init__(self, kind: str) -> None:
        self._waits = kind != "cpu"
        self._ends: list[float] = []
        self._seconds: list[float] = []

    def on_step(self) -> None:
        if self._waits:
            torch.accelerator.synchronize()
        self._ends.append(time.perf_counter())

    def on_epoch(self, trace: EpochTrace) -> None:
        self._seconds += [end - start for start, end in zip(self._ends, self._ends[1:], strict=False)]
        self._ends = []
        if trace.num_steps == 1:
            self._seconds.append(trace.seconds)

    def step_seconds(self) -> float:
        """Give the shortest step, which a busy machine disturbed least."""
        return min(self._seconds)


def _fit_alone_(member: _Member, plan: TrainPlan, engine: Engine) -> None:
    one = Pass(lambda step: step.mean_loss("retain"), ("retain",))
    own = engine.reseeded(member.seed)
    everything = Mask.full(member.model)
    fit_(
        member.model,
        lambda _: (one,),
        {"retain": member.rows},
        plan,
        everything,
        own,
        stage="timing",
        statistics="adapt",
    )
