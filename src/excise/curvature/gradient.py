"""Gradients of rows' losses in eval mode: a batch's mean, all rows' sum, or one for each example.

A gradient is `dict[str, Tensor]` over the parameters that require one. Nothing of the network is changed: gradients are
returned, and what its parameters held in `.grad` is there afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from excise import errors, params, seeds
from excise.data.batches import Batch, batches, in_batches, num_batches, read_batch
from excise.data.rows import Rows
from excise.distributed.sharding import shard_of, sharded_copy
from excise.train.engine import Engine
from excise.train.task import Task, device_of

Gradient = dict[str, Tensor]
Accumulate = Literal["mean", "batch-means"]
ACCUMULATES: tuple[Accumulate, ...] = get_args(Accumulate)

_NOT_FINITE = "the loss of a row is not finite; nothing was changed; check the weights and the rows"
MAX_VALUES = 2**25  # of example gradients held at once: 128 MiB in float32, and a few times that while they are made
MAX_EXAMPLES = 64  # beyond, nothing is gained
MIN_EXAMPLES = 8  # below, examples one at a time are faster (a CPU, ResNet-18: 1.6 batched passes against 3)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give the parameters that require a gradient, by name."""
    return {name: value for name, value in params.named_parameters(model).items() if value.requires_grad}


def flat(gradient: Mapping[str, Tensor], *, stacked: bool = False) -> Tensor:
    """Give a gradient as one vector `[params]`, or stacked ones as `[examples, params]`."""
    if stacked:
        return torch.cat([value.reshape(len(value), -1) for value in gradient.values()], 1)
    return torch.cat([value.reshape(-1) for value in gradient.values()])


def require_accumulate(value: str) -> None:
    """Refuse a word that is no way to sum gradients up."""
    if value not in ACCUMULATES:
        raise errors.BadRequest(f"accumulate: expected {' or '.join(ACCUMULATES)}, found {value!r}")


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Put a network in eval mode with gradients enabled; modes are restored afterwards, also on failure."""
    with params.untouched(model), torch.enable_grad():
        model.eval()
        yield


def batch_gradients(model: nn.Module, rows: Rows, engine: Engine, batch_size: int) -> Iterator[tuple[int, Gradient]]:
    """Give each batch's number of rows and the gradient of its mean loss. To be called inside `resting`.

    Raises:
        errors.Diverged: a loss is not finite.
    """
    own = trainable(model)
    for batch in batches(rows, batch_size, device_of(model)):
        losses = engine.task.losses(model, batch)
        _require_finite(losses)
        found = torch.autograd.grad(losses.mean(), list(own.values()), allow_unused=True, materialize_grads=True)
        engine.cost.count(trained=len(batch))
        yield len(batch), dict(zip(own, found, strict=True))


def summed_gradient(
    model: nn.Module, rows: Rows, engine: Engine, *, batch_size: int, accumulate: Accumulate = "mean"
) -> Gradient:
    """Give the gradient of the rows' losses summed up, in eval mode; zero where a parameter takes no part.

    The sum is autograd's own, in `.grad`: no second copy of a gradient is held. What the network's parameters had there
    is put back. Several processes share each batch, and each gives the sum of all.

    Cost: one pass forward and backward over rows. Memory: one gradient.

    Args:
        model: left as it was.
        rows: what to read, in order of id.
        engine: task; counts the cost, hears one step a batch.
        batch_size: examples a batch.
        accumulate: `mean` for the gradient of the mean loss over all rows, which does not depend on the batch size beyond
            rounding; `batch-means` for the sum over batches of the gradient of each batch's mean loss, as published codes
            have it.

    Raises:
        errors.Diverged: a loss is not finite.
    """
    own = trainable(model)
    with resting(model):
        for value in own.values():
            value.grad = None
        if engine.processes.several:
            _backward_shared(model, rows, engine, batch_size, accumulate)
        else:
            for batch in batches(rows, batch_size, device_of(model)):
                losses = engine.task.losses(model, batch)
                _require_finite(losses)
                (losses.mean() if accumulate == "batch-means" else losses.sum() / len(rows)).backward()  # type: ignore[no-untyped-call]
                engine.cost.count(trained=len(batch))
                engine.hooks.on_step()
        here = [None if value.grad is None else value.grad.to_dense() for value in own.values()]
        found = engine.processes.summed(here, list(own.values()))
        return {
            name: torch.zeros_like(value, requires_grad=False) if gradient is None else gradient
            for (name, value), gradient in zip(own.items(), found, strict=True)
        }


def shard_gradient(
    model: nn.Module, rows: Rows, engine: Engine, *, batch_size: int, accumulate: Accumulate = "mean"
) -> dict[str, tuple[Tensor, Tensor]]:
    """Give the rows of `summed_gradient` that this process holds, each beside the same rows of its parameter.

    For processes that hold parameters in parts: none of them ever holds a whole gradient, or the whole network but for a
    block at a time and the caller's own copy.

    Cost: as `summed_gradient`. Memory: a part of a gradient and of the weights; a copy of the weights until they are parted.

    Raises:
        errors.Diverged: a loss is not finite.
    """
    network = sharded_copy(model, engine.processes)
    with resting(network):
        own = trainable(network)
        _backward_shared(network, rows, engine, batch_size, accumulate)
        found = {}
        for name, value in own.items():
            shard = shard_of(value)
            assert shard is not None
            gradient = torch.zeros_like(shard.local) if value.grad is None else value.grad.to_local()  # type: ignore[attr-defined]
            found[name] = gradient * engine.processes.size, shard.local  # torch has averaged
    return found


def _backward_shared(model: nn.Module, rows: Rows, engine: Engine, batch_size: int, accumulate: Accumulate) -> None:
    """Run this process's share of every batch forward and backward."""
    together, finite = engine.processes, True
    with seeds.isolated(engine.seed, "shared gradient", together.rank):  # a data set may draw, each for its own rows
        for ids in in_batches(rows.ids, batch_size):
            share = together.share(ids)
            if len(
                own := together.own(ids) if together.sharded else share
            ):  # who holds a part of the weights keeps step
                losses = engine.task.losses(model, read_batch(rows.source, own, device_of(model)))
                finite = finite and bool(losses.isfinite().all())
                counted = losses.sum() * (len(share) > 0)
                (counted / (len(ids) if accumulate == "batch-means" else len(rows))).backward()  # type: ignore[no-untyped-call]
            engine.cost.count(trained=len(ids))
            engine.hooks.on_step()
    if together.anywhere(fact=not finite):  # told by all, or those without would wait for those with
        raise errors.Diverged(_NOT_FINITE)


def example_gradients(
    model: nn.Module, rows: Rows, engine: Engine, examples_at_once: int | None = None
) -> Iterator[Gradient]:
    """Give each example's own gradient, stacked some at a time: `[examples, *shape]`. To be called inside `resting`.

    A chunk is one vectorised pass (`torch.func.vmap`). A network that cannot be vectorised (its forward pass looks at
    values, say, or reaches a parameter past its modules) and one that is too large are run one example at a time: the same
    gradients, in steps of one.

    Args:
        model: left as it was.
        rows: what to read, in order of id.
        engine: counts the cost; hears one step a chunk.
        examples_at_once: gradients held at once; None for as many as `MAX_VALUES` allows.

    Raises:
        errors.Diverged: a loss is not finite.
    """
    chunk = _chunk(model, examples_at_once)
    together = chunk > 1
    for ids in torch.split(rows.ids, chunk):
        part = Rows(rows.source, ids)
        found = _vectorised(model, part, engine) if together else None
        together = found is not None
        if found is not None:
            yield found
        else:
            for _, gradient in batch_gradients(model, part, engine, 1):
                yield {name: value.unsqueeze(0) for name, value in gradient.items()}
        engine.hooks.on_step()


def num_chunks(model: nn.Module, rows: Rows, examples_at_once: int | None = None) -> int:
    """Count the steps that `example_gradients` takes."""
    return num_batches(len(rows), _chunk(model, examples_at_once))


def _chunk(model: nn.Module, wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    fitting = MAX_VALUES // max(sum(value.numel() for value in trainable(model).values()), 1)
    return 1 if fitting < MIN_EXAMPLES else min(fitting, MAX_EXAMPLES)


class _Loss(nn.Module):
    """The loss of one example as a module's forward pass, so that `functional_call` can lend the network other values."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, content: Any) -> Tensor:
        return self.task.losses(self.model, Batch(torch.zeros(1, dtype=torch.int64), _as_batch(content)))[0]


def _vectorised(model: nn.Module, rows: Rows, engine: Engine) -> Gradient | None:
    """Give the stacked gradients of all rows in one pass, or None where torch cannot vectorise the network or the rows."""
    batch = next(iter(batches(rows, len(rows), device_of(model))))
    network = _Loss(model, engine.task)

    places = _places(model)

    def loss(values: Gradient, content: Any) -> tuple[Tensor, Tensor]:
        lent = {place: values[name] for place, name in places.items() if name in values}
        value = functional_call(network, lent, (content,), tie_weights=False)
        return value, value

    values = {name: value.detach() for name, value in trainable(model).items()}
    try:
        with sdpa_kernel(SDPBackend.MATH):  # torch has no vectorised form of the fused attention kernels
            found, losses = vmap(grad(loss, has_aux=True), in_dims=(None, 0))(values, batch.content)
    except (RuntimeError, ValueError):  # a mistake of the user's is met again, and told, one example at a time
        return None
    if losses.requires_grad:  # the network holds a parameter by a second way that `functional_call` does not see
        return None
    _require_finite(losses)
    engine.cost.count(trained=len(rows))
    return dict(found)


def _places(model: nn.Module) -> dict[str, str]:
    """Give every place that holds a parameter, once a module object, and the parameter's name.

    Left to tie weights by itself, `functional_call` lends a module that stands in a network twice its values twice, and
    then gives it back the first loan instead of its own parameter.
    """
    name_of = {id(value): name for name, value in params.named_parameters(model).items()}
    return {
        ".".join(filter(None, ("model", path, name))): name_of[id(value)]
        for path, module in model.named_modules()
        for name, value in module.named_parameters(recurse=False)
    }


def _as_batch(content: Any) -> Any:
    """Give one example's content as a batch of one."""
    if isinstance(content, Tensor):
        return content.unsqueeze(0)
    if isinstance(content, dict):
        return {key: _as_batch(value) for key, value in content.items()}
    return tuple(_as_batch(part) for part in content)


def _require_finite(losses: Tensor) -> None:
    if not bool(losses.isfinite().all()):
        raise errors.Diverged(_NOT_FINITE)
