"""`Step` and `Pass`: what an objective may look at, and which rows it is taken over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from excise import seeds
from excise.data.batches import Batch
from excise.train.activations import Activations
from excise.train.engine import Engine
from excise.train.running import Running
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
        kept: by stream, what need not be computed again.
        run: runs networks in the precision and layout of the run; the task's forward if None.
    """

    model: nn.Module
    epoch: int
    index: int
    engine: Engine
    batches: Mapping[str, Batch]
    kept: Mapping[str, Activations] = field(default_factory=dict)
    run: Running | None = None

    def _outputs(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.run(network, batch) if self.run else self.engine.task.forward(network, batch.content)

    def _training(self, batch: Batch) -> AbstractContextManager[None]:
        return running_statistics_used(self.model) if len(batch) == 1 else nullcontext()

    def _answers(self, batch: Batch, stream: str) -> tuple[Tensor, Tensor]:
        """Give logits and targets, as the engine's task does, from what is kept where that serves."""
        kept = self.kept.get(stream)
        with self._training(batch):
            if kept is not None and kept.serves(len(batch)):
                return self.run.answers(kept, batch.ids) if self.run else kept.answers(batch.ids)
            return self._outputs(self.model, batch)

    def mean_loss(self, stream: str) -> Tensor:
        """Give the mean loss over the step's batch of `stream` (`retain`, `forget` or `train`), one forward pass."""
        batch = self.batches[stream]
        self.engine.cost.count(trained=len(batch))
        return self.engine.task.losses_of(*self._answers(batch, stream), len(batch)).mean()

    def outputs(self, stream: str) -> tuple[Tensor, Tensor]:
        """Give logits and targets of the step's batch of `stream`, one forward pass that is to be followed by a backward."""
        batch = self.batches[stream]
        self.engine.cost.count(trained=len(batch))
        return self._answers(batch, stream)

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
        self._answers(batch, stream)


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
