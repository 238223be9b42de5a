"""`Step` and `Pass`: what an objective may look at, and which rows it is taken over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import seeds
from excise.data.batches import Batch
from excise.train.engine import Engine
from excise.train.statistics import running_statistics_used


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
        run: `(network, batch) -> logits, targets`, in the precision and layout of the run; the task's forward if None.
    """

    model: nn.Module
    epoch: int
    index: int
    engine: Engine
    batches: Mapping[str, Batch]
    run: Callable[[nn.Module, Batch], tuple[Tensor, Tensor]] | None = None

    def _outputs(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.run(network, batch) if self.run else self.engine.task.forward(network, batch.content)

    def _training(self, batch: Batch) -> AbstractContextManager[None]:
        return running_statistics_used(self.model) if len(batch) == 1 else nullcontext()

    def mean_loss(self, stream: str) -> Tensor:
        """Give the mean loss over the step's batch of `stream` (`retain`, `forget` or `train`), one forward pass."""
        batch = self.batches[stream]
        self.engine.cost.count(trained=len(batch))
        with self._training(batch):
            return self.engine.task.losses_of(*self._outputs(self.model, batch), len(batch)).mean()

    def outputs(self, stream: str) -> tuple[Tensor, Tensor]:
        """Give logits and targets of the step's batch of `stream`, one forward pass that is to be followed by a backward."""
        batch = self.batches[stream]
        self.engine.cost.count(trained=len(batch))
        with self._training(batch):
            return self._outputs(self.model, batch)

    @torch.no_grad()
    def outputs_of(self, network: nn.Module, stream: str) -> Tensor:
        """Give another network's logits on the step's batch of `stream`, without gradient."""
        batch = self.batches[stream]
        self.engine.cost.count(forward=len(batch))
        return self._outputs(network, batch)[0]

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Give a generator for one purpose in this very step, a pure function of the run's seed."""
        return seeds.generator(self.engine.seed, *purpose, self.epoch, self.index)

    @torch.no_grad()
    def observe(self, stream: str) -> None:
        """Run the step's batch of `stream` forward only, for the running statistics."""
        batch = self.batches[stream]
        self.engine.cost.count(forward=len(batch))
        with self._training(batch):
            self._outputs(self.model, batch)


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
