"""`Step` and `Pass`: what an objective may look at, and which rows it is taken over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from excise import params, seeds
from excise.data.batches import Batch
from excise.distributed import JointStatistics, Processes, Shard
from excise.train.activations import Activations
from excise.train.before_head import Embedded, before_head
from excise.train.engine import Engine
from excise.train.running import Running
from excise.train.statistics import running_statistics_used
from excise.train.task import floating_inputs, forward_pair, in_precision, with_inputs


@dataclass(frozen=True, eq=False)
class Step:
    """What an objective may look at.

    A batch of one row (a request for one person, say) is normalised by the running statistics and does not move them: it
    has no statistics of its own.

    With several processes each has its share of every batch's rows, and what `mean` and `mean_loss` give is the mean over
    all of them, the same in each: an objective may be any function of means and of the network's weights. A process whose
    share is empty is given the batch's first row, which counts nowhere, so that all take the same steps.

    Attributes:
        model: the network, in training mode.
        epoch: counted from 0.
        index: of the step within its epoch, counted from 0.
        batches: one a stream of the pass, this process's rows.
        kept: by stream, what need not be computed again.
        run: runs networks in the precision and layout of the run; the task's forward if None.
        everyone: ids of the rows of all processes by stream; those of the batches where there is one process.
        joint: whether what runs counts for the statistics of batch normalisation.
        shards: what lies here of every parameter, where parameters are sharded.
    """

    model: nn.Module
    epoch: int
    index: int
    engine: Engine
    batches: Mapping[str, Batch]
    kept: Mapping[str, Activations] = field(default_factory=dict)
    run: Running | None = None
    everyone: Mapping[str, Tensor] = field(default_factory=dict)
    joint: JointStatistics = field(default_factory=lambda: JointStatistics(Processes.alone()))
    shards: Sequence[Shard] = ()

    def _outputs(self, network: nn.Module, batch: Batch, *, whole: bool = True) -> tuple[Tensor, Tensor]:
        """Run a network on a batch; `whole` says that nobody listens inside, so that it may be compiled."""
        if self.run is None:
            return self.engine.task.forward(network, batch.content)
        return self.run(network, batch) if whole else self.run.by_modules(network, batch)

    def ids(self, stream: str) -> Tensor:
        """Give the ids of the step's rows of `stream`, those of all processes."""
        return self.everyone.get(stream, self.batches[stream].ids)

    def _training(self, stream: str) -> AbstractContextManager[None]:
        if len(self.ids(stream)) == 1:
            return running_statistics_used(self.model)
        return self.joint.standing_in(idle=self._idle(stream)) if self.engine.processes.several else nullcontext()

    def _idle(self, stream: str) -> bool:
        """Whether this process has no row of the batch, and runs the first one to keep step."""
        return len(self.engine.processes.share(self.ids(stream))) == 0

    def mean(self, values: Tensor, stream: str) -> Tensor:
        """Give the mean over the step's batch of `stream` of one value a row, `[batch]`, the rows of all processes."""
        if not self.engine.processes.several:
            return values.mean()
        own = values[:0] if self._idle(stream) else values
        return self.engine.processes.total(own.sum() / len(self.ids(stream)))

    def total(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """Give the sum over all of the network's weights of a function of one weight, such as `torch.abs`.

        Without sharding (see `Processes`) the same can be written with `model.parameters()`; with it, this alone is right.
        """
        if not self.engine.processes.sharded:
            return torch.stack([of(value).sum() for value in self.model.parameters()]).sum()
        own = torch.stack([of(shard.local).sum() for shard in self.shards]).sum()
        return self.engine.processes.total(own, averaged=False)

    def drift(self, start: Mapping[str, Tensor]) -> Tensor:
        """Give the sum over all of the network's weights of the squared distance from values by name, full size."""
        named = params.named_parameters(self.model)
        if not self.engine.processes.sharded:
            return torch.stack([(value - start[name]).square().sum() for name, value in named.items()]).sum()
        apart = [shard.local - shard.of(start[name]) for name, shard in zip(named, self.shards, strict=True)]
        own = torch.stack([one.square().sum() for one in apart]).sum()
        return self.engine.processes.total(own, averaged=False)

    def uniform(self, stream: str, *purpose: str | int) -> Tensor:
        """Give a number in [0, 1) for each row of the step's batch of `stream`, float64 `[batch]`, whoever has the row."""
        draws = torch.rand(len(self.ids(stream)), generator=self.generator(*purpose), dtype=torch.float64)
        return self.engine.processes.own(draws)

    def _answers(self, batch: Batch, stream: str) -> tuple[Tensor, Tensor]:
        """Give logits and targets, as the engine's task does, from what is kept where that serves."""
        kept = self.kept.get(stream)
        with self._training(stream):
            if kept is not None and kept.serves(len(batch)):
                return self.run.answers(kept, batch.ids) if self.run else kept.answers(batch.ids)
            return self._outputs(self.model, batch)

    def mean_loss(self, stream: str) -> Tensor:
        """Give the mean loss over the step's batch of `stream` (`retain`, `forget` or `train`), one forward pass."""
        batch = self.batches[stream]
        self.engine.cost.count(trained=len(self.ids(stream)))
        return self.mean(self.engine.task.losses_of(*self._answers(batch, stream), len(batch)), stream)

    def outputs(self, stream: str) -> tuple[Tensor, Tensor]:
        """Give logits and targets of this process's rows of `stream`, one forward pass that a backward is to follow.

        What is made of them is to be averaged by `mean`, over the rows of all processes.
        """
        self.engine.cost.count(trained=len(self.ids(stream)))
        return self._answers(self.batches[stream], stream)

    def features(self, stream: str, head: str) -> Embedded:
        """Give what a module is given, beside logits and targets, of this process's rows of `stream`; all with gradient.

        One forward pass that a backward is to follow. What is made of the features `[batch, dims]` is to be averaged by
        `mean`, over the rows of all processes. Kept activations serve where the module runs behind their cut.

        Args:
            stream: which rows.
            head: name of the module, such as the classifier head.

        Raises:
            errors.UnsupportedModel: no such module, or one that does not run exactly once on `[batch, dims]`.
        """
        self.engine.cost.count(trained=len(self.ids(stream)))
        batch, kept = self.batches[stream], self.kept.get(stream)
        serves = kept is not None and kept.serves(len(batch)) and kept.prefix.finishes(head)
        with before_head(params.unwrapped(self.model), head) as given:
            if serves:
                logits, targets = self._answers(batch, stream)
            else:
                with self._training(stream):
                    logits, targets = self._outputs(self.model, batch, whole=False)
            return Embedded(given(len(batch)).to(logits.dtype), logits, targets)

    @torch.no_grad()
    def outputs_of(self, network: nn.Module, stream: str) -> Tensor:
        """Give another network's logits on this process's rows of `stream`, without gradient."""
        self.engine.cost.count(forward=len(self.ids(stream)))
        return self._outputs(network, self.batches[stream])[0]

    def inputs(self, stream: str) -> Tensor:
        """Give the inputs of this process's rows of `stream`, `[batch, ...]`, as the network gets them; see `outputs_on`.

        Raises:
            errors.UnsupportedModel: examples that are no pairs whose first half is a tensor of floating-point numbers.
        """
        found = floating_inputs(self.batches[stream].content)
        return in_precision(self.model, found) if self.engine.task.forward is forward_pair else found

    def outputs_on(self, inputs: Tensor, stream: str) -> Tensor:
        """Give the network's logits where this process's rows of `stream` have other inputs, `[copies * batch, ...]`.

        One forward pass, of one copy of the batch or of several one after another; each row keeps what it holds beside the
        input. Nothing is answered from kept activations. What is made of the logits is to be averaged by `mean`. A backward
        pass may follow, except under `torch.no_grad()`.
        """
        batch = self.batches[stream]
        copies = len(inputs) // len(batch)
        num_rows = copies * len(self.ids(stream))
        followed = torch.is_grad_enabled()
        self.engine.cost.count(trained=num_rows if followed else 0, forward=0 if followed else num_rows)
        changed = Batch(batch.ids.repeat(copies), with_inputs(batch.content, inputs, copies))
        with self._training(stream):
            return self._outputs(self.model, changed)[0]

    def eval_(self) -> None:
        """Put the network in eval mode (no dropout, running statistics), until the training ends, which restores modes.

        For the backward pass too, since a network may run forward again in it (activation checkpointing).
        """
        for module in self.model.modules():
            module.training = False

    def row_generators(self, stream: str, *purpose: str | int) -> list[torch.Generator]:
        """Give a generator for each of this process's rows of `stream`.

        A function of the run's seed, the epoch and the row's id: whoever has the row, in whatever batch, draws the same.
        """
        ids = self.batches[stream].ids.tolist()
        return [seeds.generator(self.engine.seed, *purpose, self.epoch, row) for row in ids]

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Give a generator for one purpose in this very step, a pure function of the run's seed, the same in every process.

        For one number a row take `uniform`.
        """
        return seeds.generator(self.engine.seed, *purpose, self.epoch, self.index)

    @torch.no_grad()
    def observe(self, stream: str) -> None:
        """Run the step's batch of `stream` forward only, for the running statistics."""
        self.engine.cost.count(forward=len(self.ids(stream)))
        self._answers(self.batches[stream], stream)


Objective = Callable[[Step], Tensor]


@dataclass(frozen=True)
class Pass:
    """A part of an epoch: what is minimised, over which rows.

    Attributes:
        objective: `(Step) -> scalar`.
        streams: rows by name. The first paces the pass; the others are cycled through.
        repeats: steps that each batch of the first takes part in, one after another, each beside new batches of the others;
            no more than the shortest of these has batches.
    """

    objective: Objective
    streams: tuple[str, ...]
    repeats: int = 1

    def times(self, num_batches: Mapping[str, int]) -> int:
        """Give the steps that each batch of the first stream takes part in, from the batches of a round of each stream."""
        return min([self.repeats, *(num_batches[name] for name in self.streams[1:])]) if self.repeats > 1 else 1

    def num_steps(self, num_batches: Mapping[str, int]) -> int:
        """Give the steps of the pass, likewise."""
        return num_batches[self.streams[0]] * self.times(num_batches)


Passes = Callable[[int], Sequence[Pass]]
"""From an epoch, counted from 0, to its passes, in order."""
