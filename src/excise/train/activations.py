"""Activations that are the same in every step, computed once and kept.

Where a mask leaves the first layers alone, a step computes the same values again for each row. `keep_activations` cuts the
network behind them (`prefix`), runs every row through the first half once, and keeps what comes out, in memory or in a file
without a name. From then on a step costs the second half alone, and inputs are not read at all.

The result of a run is the same to the bit. That is tried and not assumed, see `_proven`: the last digits of a matrix product
may depend on how many rows it has, and on where among them a row stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from excise import errors, params, seeds
from excise.data.batches import read_batch
from excise.data.moving import gathered
from excise.data.rows import ArraySource, Rows
from excise.store.scratch import free_bytes, scratch_tensor
from excise.train.engine import Engine, Kept
from excise.train.machine import Way
from excise.train.prefix import Prefix, Uncut, cut, layout_of
from excise.train.products import most_products
from excise.train.running import PLAIN, computing, content_laid_out
from excise.train.statistics import running_statistics_used
from excise.train.task import as_targets, device_of, forward_pair, in_precision

LEAST_SHARE = 0.1
"""Of the multiplications of a forward pass: a smaller share would hardly be noticed."""
FEW = 3
"""Rows of the first look."""
LEAST_VALUES = 256
"""That must agree at each place of a batch: one value alone often has the same last digit by chance."""


@dataclass(frozen=True, eq=False)
class Reading:
    """How a training reads one stream.

    Attributes:
        rows: of the stream.
        sizes: rows of a batch, of each kind that there will be; the most frequent first.
        rounds: how often each row is read, on average.
    """

    rows: Rows
    sizes: tuple[int, ...]
    rounds: float

    @property
    def num_tried(self) -> int:
        """Rows that are run, at least, to try whether kept activations have the same bits, see `_proven`."""
        return self.sizes[0] + 2 * sum(self.sizes)


@dataclass(frozen=True, eq=False)
class Activations:
    """The activations of one stream's rows at the cut of a network.

    Attributes:
        prefix: the network's halves.
        rows: of the stream, ids ascending.
        held: a tensor for each value at the cut, on the CPU: rows first, then the axes as they lay in memory.
        axes: for each, the places of the value's own axes.
        sizes: numbers of rows for which a batch was found to have the same bits; where there is none, nothing is held.
        on_disk: whether they lie in a file.
        num_run: rows that were run forward to fill it, and to try it.
    """

    prefix: Prefix
    rows: Rows
    held: tuple[Tensor, ...]
    axes: tuple[tuple[int, ...], ...]
    device: torch.device
    on_disk: bool = False
    sizes: frozenset[int] = frozenset()
    num_run: int = 0

    @property
    def num_bytes(self) -> int:
        """What they take."""
        return sum(one.nbytes for one in self.held)

    def serves(self, size: int) -> bool:
        """Say whether batches of so many rows may be answered from here."""
        return size in self.sizes

    def read(self, ids: Tensor) -> tuple[Tensor, ...]:
        """Give the activations of rows, each `[batch, ...]`, laid out as the network lays them out, on its device."""
        places = torch.searchsorted(self.rows.ids, ids)
        return tuple(
            one.permute(axes) for one, axes in zip(gathered(self.held, places, self.device), self.axes, strict=True)
        )

    def answers(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Give logits and targets as `forward_pair` does, with gradients for what may change; no input is read."""
        assert isinstance(self.rows.source, ArraySource)
        (targets,) = gathered(self.rows.source.tensors[1:], ids, self.device)
        return self.prefix.finish(self.read(ids)), as_targets(targets)


def keep_activations(
    model: nn.Module, streams: Mapping[str, Reading], engine: Engine, stage: str, way: Way = PLAIN
) -> dict[str, Activations]:
    """Compute what is the same in every step, once for each row, and keep it; by stream, for those where that holds and pays.

    It holds for data in arrays, whose inputs are the same at each reading, and for the library's own forward. It pays where a
    stream is read more than once, where the first half has a tenth of the multiplications of a forward pass or more, and where
    `engine.keep.least_products` of them are saved. All of this is counted and not timed, so that a run repeats.

    Nothing of the network changes, and no random number is drawn. Hooks are told what is kept, or why not where a large
    training might have gained.

    Args:
        model: in the state that it will be trained in, see `enforced`.
        streams: how the training will read its rows.
        engine: task, bounds, hooks; the cost is not counted here, see `Activations.num_run`.
        stage: name of the training.
        way: in which precision and layout the network runs. What is compiled gives other bits than its halves: nothing is
            kept for it.
    """
    again = {name: one for name, one in streams.items() if one.rounds > 1 and _has_fixed_inputs(one.rows)}
    plain = params.unwrapped(model) is model and _partly_frozen(model)
    if engine.keep is None or way.compiled or engine.task.forward is not forward_pair or not again or not plain:
        return {}
    with params.untouched(model), seeds.isolated(engine.seed, stage, "kept"), computing(way):
        rows = next(iter(again.values())).rows
        few = _inputs(model, rows, rows.ids[:FEW], way)
        saved = sum(len(one.rows) * (one.rounds - 1) - one.num_tried for one in again.values())
        least = max(engine.keep.least_products, 1)
        if saved * most_products(model, few[:1]) < least:
            return {}
        try:
            prefix = cut(model, few)
        except Uncut as reason:
            engine.hooks.on_note(f"{stage}: what precedes the mask is computed in every step: {reason}")
            return {}
        if prefix is None or prefix.share < LEAST_SHARE or saved * prefix.products < least:
            return {}
        return _kept(model, prefix, again, engine.keep, engine, stage, way)


def _kept(
    model: nn.Module, prefix: Prefix, streams: Mapping[str, Reading], bounds: Kept, engine: Engine, stage: str, way: Way
) -> dict[str, Activations]:
    found: dict[str, Activations] = {}
    for name, reading in streams.items():
        held = [(one.num_bytes, one.on_disk) for one in found.values()]
        left = Kept(
            memory_bytes=bounds.memory_bytes - sum(num for num, on_disk in held if not on_disk),
            disk_bytes=bounds.disk_bytes - sum(num for num, on_disk in held if on_disk),
        )
        try:
            filled = _filled(model, prefix, reading, left, way)
        except Uncut as reason:
            engine.hooks.on_note(f"{stage}: activations of {name} rows are not kept: {reason}")
            continue
        sizes = [size for size in reading.sizes if _proven(model, filled, size, reading.sizes[0], engine.seed, way)]
        if reading.sizes[0] not in sizes:
            engine.hooks.on_note(
                f"{stage}: activations of {name} rows are not kept: computed in another batch, a row's differ in a bit here"
            )
            found[name] = replace(filled, held=(), axes=())
            continue
        found[name] = replace(
            filled, sizes=frozenset(sizes), num_run=filled.num_run + _rows_tried(filled, reading.sizes)
        )
        others = ", ".join(str(size) for size in reading.sizes if size not in sizes)
        engine.hooks.on_note(
            f"{stage}: kept {_told(filled.num_bytes)} of activations of {len(reading.rows):,} {name} rows"
            f"{' on disk' if filled.on_disk else ''}"
            + (f"; batches of {others} are computed whole, since their bits differ" if others else "")
        )
    return found


def _has_fixed_inputs(rows: Rows) -> bool:
    return isinstance(rows.source, ArraySource) and len(rows.source.tensors) == 2


def _partly_frozen(model: nn.Module) -> bool:
    return len({value.requires_grad for value in model.parameters()}) == 2


def _inputs(model: nn.Module, rows: Rows, ids: Tensor, way: Way) -> Tensor:
    inputs: Tensor = content_laid_out(read_batch(rows.source, ids, device_of(model)).content[0], way)
    return in_precision(model, inputs)


def _as_in_a_step(model: nn.Module, size: int) -> AbstractContextManager[None]:
    return running_statistics_used(model) if size == 1 else nullcontext()


def _filled(model: nn.Module, prefix: Prefix, reading: Reading, left: Kept, way: Way) -> Activations:
    """Run every row through the first half, in batches of one size; the last one is filled up with the rows before.

    Raises:
        Uncut: there is no room, or what comes out is not one value a row.
    """
    rows, size, num_rows = reading.rows, reading.sizes[0], len(reading.rows)
    held: tuple[Tensor, ...] = ()
    layouts: list[tuple[int, ...]] = []
    on_disk = False
    for new in range(0, num_rows, size):
        start = min(new, num_rows - size)
        values = prefix.compute(_inputs(model, rows, rows.ids[start : start + size], way))
        if not held:
            layouts = [_layout(value, size) for value in values]
            shaped = [value.permute(layout)[0] for value, layout in zip(values, layouts, strict=True)]
            held, on_disk = _room(shaped, num_rows, left)
        for one, value, layout in zip(held, values, layouts, strict=True):
            one[new : start + size].copy_(value.permute(layout)[new - start :])
    axes = tuple(tuple(torch.tensor(layout).argsort().tolist()) for layout in layouts)
    return Activations(prefix, rows, held, axes, device_of(model), on_disk, num_run=-(-num_rows // size) * size)


def _layout(value: Tensor, size: int) -> tuple[int, ...]:
    layout = layout_of(value) if value.ndim and len(value) == size else None
    if layout is None:
        raise Uncut("what comes out of the frozen layers is not one value a row")
    return layout


def _room(shaped: list[Tensor], num_rows: int, left: Kept) -> tuple[tuple[Tensor, ...], bool]:
    """Give tensors for as many rows of each kind, in memory or else in a file; and whether it is a file."""
    needed = num_rows * sum(one.nbytes for one in shaped)
    if needed <= left.memory_bytes:
        return tuple(torch.empty((num_rows, *one.shape), dtype=one.dtype) for one in shaped), False
    allowed = min(left.disk_bytes, free_bytes() // 2)
    if needed > allowed:
        raise Uncut(
            f"they take {_told(needed)}, and {_told(left.memory_bytes)} of memory or {_told(allowed)} of disk may be used"
        )
    try:
        return tuple(scratch_tensor((num_rows, *one.shape), one.dtype) for one in shaped), True
    except errors.DiskError as error:
        raise Uncut(str(error)) from error


def _proven(model: nn.Module, kept: Activations, size: int, filled: int, seed: int, way: Way = PLAIN) -> bool:
    """Say whether a batch of so many rows, answered from what is kept, has the bits of the plain forward pass.

    A kernel may treat some places of a batch otherwise than others. If it does so in batches of the size that the store was
    filled with, then for some place and the next one: a batch in which every row stands one place on tells, and a second one of
    rows drawn with replacement asks again; with few values a row, several of each. If it does not, batches of another size are
    looked at as drawn alone. Rows that repeat, and others that are missing, also tell of a forward in which a row's value
    hangs on those beside it (less the batch's mean, say), even where a batch has most of the rows. Activations must agree in
    every bit and in their layout, and so must the logits.

    Args:
        model: in the state of the training.
        kept: what was filled.
        size: rows of the batch.
        filled: rows of the batches that it was filled with.
        seed: of the run.
        way: in which layout images come.
    """
    draws, num_rows, times = seeds.generator(seed, "kept", size), len(kept.rows), _num_tries(kept, filled)
    for drawn in (*[False] * (times if size == filled else 0), *[True] * times):
        block = filled * torch.randint(num_rows // filled, (filled,), generator=draws)
        moved_on = torch.arange(filled).roll(1) + block
        places = torch.randint(num_rows, (filled,), generator=draws) if drawn else moved_on
        ids = kept.rows.ids[torch.cat([places, torch.arange(num_rows).flip(0)])[:size]]
        inputs, found = _inputs(model, kept.rows, ids, way), kept.read(ids)
        if not all(_same(one, other) for one, other in zip(kept.prefix.compute(inputs), found, strict=True)):
            return False

    def logits(run: Callable[[], Any]) -> Any:
        with params.untouched(model), seeds.isolated(seed, "kept", size), _as_in_a_step(model, size):
            return run()

    return _same(logits(lambda: model(inputs)), logits(lambda: kept.prefix.finish(found)))


def _num_tries(kept: Activations, filled: int) -> int:
    """Give how many batches of a kind have `LEAST_VALUES` at each place; a zero says nothing, it is one in any order."""
    telling = sum(int(one[:filled].count_nonzero()) for one in kept.held)
    return -(-LEAST_VALUES * filled // max(telling, filled))


def _rows_tried(kept: Activations, sizes: tuple[int, ...]) -> int:
    times = _num_tries(kept, sizes[0])
    return times * sizes[0] + (times + 1) * sum(sizes)


def _same(one: object, other: object) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    if (one.dtype, one.shape, one.stride()) != (other.dtype, other.shape, other.stride()):
        return False
    return torch.equal(*(value.detach().contiguous().reshape(-1).view(torch.uint8) for value in (one, other)))


def _told(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.3g} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:,.3g} GB"
