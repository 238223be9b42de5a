"""In which order rows come: a pure function of seed, stream, epoch and round."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from excise import seeds
from excise.data.batches import in_batches, num_batches, order_of
from excise.data.rows import Rows
from excise.train.activations import Reading
from excise.train.plan import TrainPlan
from excise.train.step import Objective, Pass, Passes


@dataclass(frozen=True, eq=False)
class Schedule:
    """Every step of a training, and the rows of each, without reading one.

    Attributes:
        passes: what each epoch consists of.
        rows: by name of stream.
        sizes: of batches, by name of stream.
        plan: epochs, shuffling, last batches.
        seed: of the orders.
        keep_single: whether a final batch of one row stays by itself.
    """

    passes: Passes
    rows: Mapping[str, Rows]
    sizes: Mapping[str, int]
    plan: TrainPlan
    seed: int
    keep_single: bool

    @property
    def num_batches(self) -> dict[str, int]:
        """Give the batches of a round of each stream."""
        last = {"drop_last": self.plan.drop_last, "keep_single": self.keep_single}
        return {name: num_batches(len(some), self.sizes[name], **last) for name, some in self.rows.items()}

    def steps(self, epoch: int, first: int = 0) -> Iterator[tuple[int, Objective, dict[str, Tensor]]]:
        """Give the steps of an epoch from the `first` on: number, objective, and the ids of one batch a stream."""
        orders = {
            name: order_of_stream(
                some, name, self.sizes[name], epoch, self.plan, self.seed, keep_single=self.keep_single
            )
            for name, some in self.rows.items()
        }
        every = enumerate(steps_of(self.passes(epoch), orders, self.num_batches))
        for index, (objective, ids) in itertools.islice(every, first, None):
            yield index, objective, ids


def steps_of(
    passes: Sequence[Pass], orders: Mapping[str, Callable[[], Iterator[Tensor]]], counts: Mapping[str, int]
) -> Iterator[tuple[Objective, dict[str, Tensor]]]:
    """Give each step of an epoch: its objective, and the ids of one batch a stream. No row is read.

    `counts` are the batches of a round of each stream.
    """
    cycled = {name: _cycle(order) for name, order in orders.items()}
    for part in passes:
        pace, *others = part.streams
        for ids in orders[pace]():
            for _ in range(part.times(counts)):
                yield part.objective, {pace: ids, **{name: next(cycled[name]) for name in others}}


def order_of_stream(
    rows: Rows, name: str, size: int, epoch: int, plan: TrainPlan, seed: int, *, keep_single: bool
) -> Callable[[], Iterator[Tensor]]:
    """Give the batches of a round, as ids, at each call; their order is a pure function of seed, stream, epoch and round."""
    rounds = itertools.count()

    def draw() -> Iterator[Tensor]:
        shuffle = seeds.generator(seed, name, epoch, next(rounds)) if plan.shuffle else None
        return iter(in_batches(order_of(rows, shuffle), size, drop_last=plan.drop_last, keep_single=keep_single))

    return draw


def _cycle(draw: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
    while True:
        yield from draw()


def readings_of(
    rows: Mapping[str, Rows],
    sizes: Mapping[str, int],
    plan: TrainPlan,
    parts: Sequence[Sequence[Pass]],
    *,
    keep_single: bool,
) -> dict[str, Reading]:
    """Say how a training will read its rows, from the passes of each epoch."""
    found = {}
    rounds = {
        name: [
            len(batch) for batch in in_batches(some.ids, sizes[name], drop_last=plan.drop_last, keep_single=keep_single)
        ]
        for name, some in rows.items()
    }
    drawn = Counter[str]()
    counts = {name: len(batches) for name, batches in rounds.items()}
    for part in itertools.chain.from_iterable(parts):
        drawn.update(dict.fromkeys(part.streams, part.num_steps(counts)))
    for name, batches in rounds.items():
        found[name] = Reading(rows[name], tuple(dict.fromkeys(batches)), drawn[name] / max(len(batches), 1))
    return found
