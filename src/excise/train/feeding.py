"""From ids to batches on the network's device, for each step of a training: read as it comes, or ahead by workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from excise import seeds
from excise.data.batches import Batch, UnreadBatch, read_batch
from excise.data.rows import Rows
from excise.data.workers import Wanted, read_by_workers
from excise.distributed import Processes
from excise.train.activations import Activations
from excise.train.augment import Drawn, augmented, draw
from excise.train.order import Schedule


class Feed:
    """The batches of a training, in the order of its schedule. To be closed, which ends the workers.

    Args:
        schedule: the steps.
        start: epoch and step to begin with.
        device: where batches go.
        processes: who shares the rows of every batch; one without a row reads the first, see `Step`.
    """

    def __init__(
        self,
        schedule: Schedule,
        start: tuple[int, int],
        device: torch.device,
        processes: Processes = Processes.alone(),  # noqa: B008 - frozen
    ) -> None:
        self._schedule, self._device, self._processes = schedule, device, processes
        self._ahead = {
            name: read_by_workers(rows.source, _wanted(schedule, name, start, processes), device)
            for name, rows in schedule.rows.items()
            if rows.source.workers
        }

    def read(
        self, epoch: int, index: int, ids: Mapping[str, Tensor], kept: Mapping[str, Activations]
    ) -> dict[str, Batch]:
        """Give the batches of the next step by stream, whose ids are those of the schedule; augmented as the plan says.

        One whose activations are kept is read only if somebody asks for its content.
        """
        found = {name: self._batch(name, self._schedule.rows[name], some, kept.get(name)) for name, some in ids.items()}
        augment = self._schedule.plan.augment
        if not augment:
            return found
        seed, changed = self._schedule.seed, {}
        for name, batch in found.items():
            whole = draw(augment, len(ids[name]), seed, name, epoch, index)
            drawn = Drawn(*(self._processes.own(one) for one in whole))
            changed[name] = Batch(batch.ids, augmented(batch.content, augment, drawn))
        return changed

    def _batch(self, name: str, rows: Rows, ids: Tensor, kept: Activations | None) -> Batch:
        ids = self._processes.own(ids)
        if kept is not None and kept.serves(len(ids)):
            return UnreadBatch(rows.source, ids, self._device)
        if name not in self._ahead:
            return read_batch(rows.source, ids, self._device)
        there, content = next(self._ahead[name])
        assert torch.equal(there, ids)
        return Batch(ids, content)

    def close(self) -> None:
        """End the workers; may be called more than once."""
        ahead: Any
        for ahead in self._ahead.values():
            ahead.close()


def _wanted(schedule: Schedule, name: str, start: tuple[int, int], processes: Processes) -> Iterator[Wanted]:
    """Give the batches of one stream from a step on, and for what it draws a seed that is a function of where it is."""
    for epoch in range(start[0], schedule.plan.epochs):
        for index, _, ids in schedule.steps(epoch, start[1] if epoch == start[0] else 0):
            if name in ids:
                rank = () if processes.is_first else (processes.rank,)
                yield seeds.derive(schedule.seed, name, "rows", epoch, index, *rank), processes.own(ids[name])
