"""How the network being trained is run: in which precision, in which layout, compiled or not; and never in the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from excise import params
from excise.data.batches import Batch
from excise.masks import Mask
from excise.train.compiling import Compiled
from excise.train.machine import Way
from excise.train.masked import picked_one_by_one
from excise.train.task import Task

PLAIN = Way()


class Answering(Protocol):
    """What holds activations of rows, see `excise.train.activations`."""

    def answers(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Give logits and targets of rows."""


@contextmanager
def without_autocast() -> Iterator[None]:
    """Leave the caller's autocast for the block: what a run computes is for `Machine` to say. Also a decorator."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kinds = ["cpu", *([] if accelerator is None else [accelerator.type])]
    with ExitStack() as left:
        for kind in kinds:
            if torch.is_autocast_enabled(kind):
                left.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def laid_out(model: nn.Module, way: Way, mask: Mask) -> Iterator[None]:
    """Lay a network's weights with four axes out as `way` says, and back as they were afterwards; values stay.

    In place: parameters keep their identity, not their memory, so what shares memory with the network no longer does.
    Those of which single weights are free stay, since weights are picked one by one in the order of rows: a convolution
    then lays them out as it runs, which costs less.
    """
    chosen = [
        value
        for name, value in params.named_parameters(model).items()
        if way.channels_last and value.ndim == 4 and value.is_contiguous() and not picked_one_by_one(mask.entry(name))
    ]
    try:
        for value in chosen:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for value in chosen:
            value.data = value.data.contiguous()


def outputs(task: Task, model: nn.Module, content: Any, way: Way) -> tuple[Tensor, Tensor]:
    """Run a network on what a batch holds, and give logits and targets; logits never shorter than the network's own."""
    content = content_laid_out(content, way)
    if not way.bfloat16:
        return task.forward(model, content)
    with computing(way):
        logits, targets = task.forward(model, content)
    return logits.float(), targets


def computing(way: Way) -> AbstractContextManager[object]:
    """Give the context of a forward pass in the precision of `way`."""
    return torch.autocast(way.kind, dtype=torch.bfloat16) if way.bfloat16 else nullcontext()


def content_laid_out(content: Any, way: Way) -> Any:
    """Give what a batch holds with its images laid out as `way` says."""
    return tree_map(_channels_last, content) if way.channels_last else content


class Running:
    """Runs the network that is being trained. Made for one training by `fit_`.

    Args:
        model: the network.
        task: forward and loss.
        way: how.
        compiled: the network compiled, and for which sizes of batch; None for not.
    """

    def __init__(self, model: nn.Module, task: Task, way: Way, compiled: Compiled | None = None) -> None:
        self._model, self._task, self._way, self._compiled = model, task, way, compiled

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give logits and targets of a batch; networks other than the one being trained are never compiled."""
        if self._compiled is None or model is not self._model:
            return outputs(self._task, model, batch.content, self._way)
        return self._compiled.run(len(batch), lambda network: outputs(self._task, network, batch.content, self._way))

    def by_modules(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give the same of a network that is never compiled, so that the hooks of its modules run."""
        return outputs(self._task, model, batch.content, self._way)

    def answers(self, kept: Answering, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Give logits and targets of rows whose activations are kept, as a forward pass over their batch would."""
        with computing(self._way):
            logits, targets = kept.answers(ids)
        return logits.float() if self._way.bfloat16 else logits, targets


def _channels_last(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point():
        return value.contiguous(memory_format=torch.channels_last)
    return value
