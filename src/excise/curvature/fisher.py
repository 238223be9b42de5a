"""The empirical Fisher matrix F = mean of g g^T over rows, g one example's gradient: its diagonal, and products with it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from excise import checks, errors, seeds
from excise.curvature.gradient import (
    Gradient,
    batch_gradients,
    example_gradients,
    flat,
    num_chunks,
    resting,
    trainable,
)
from excise.data.batches import num_batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.train.engine import Engine

Importance = Literal["example", "batch-means"]
IMPORTANCES: tuple[Importance, ...] = ("example", "batch-means")


def require_importance(
    importance: str, *, batch_size: int, forget_batch_size: int | None, examples_at_once: int | None
) -> None:
    """Refuse a word that is no way to square gradients, and sizes below 1."""
    if importance not in IMPORTANCES:
        raise errors.BadRequest(f"importance: expected one of {', '.join(IMPORTANCES)}, found {importance!r}")
    checks.require_positive_int("batch_size", batch_size)
    for name, size in (("forget_batch_size", forget_batch_size), ("examples_at_once", examples_at_once)):
        if size is not None:
            checks.require_positive_int(name, size)


def forget_and_all_importances(
    model: nn.Module,
    split: Split,
    engine: Engine,
    *,
    stage: str,
    importance: Importance,
    batch_size: int,
    forget_batch_size: int | None,
    examples_at_once: int | None,
) -> tuple[Gradient, Gradient]:
    """Give `squared_gradients` over the forget rows, then over all training rows: two stages that hooks hear of.

    Args:
        model: left as it was.
        split: which rows to forget.
        engine: task and hooks; counts the cost.
        stage: what hooks hear that this is for.
        importance: see `squared_gradients`, as the others.
        batch_size: examples a batch, for `batch-means`.
        forget_batch_size: forget rows a batch, for `batch-means`; `batch_size` if None.
        examples_at_once: gradients held at once, for `example`; None to fit the network's size.

    Raises:
        errors.Diverged: a loss is not finite.
    """

    def over(rows: Rows, size: int) -> Gradient:
        single = importance == "example"
        engine.hooks.on_stage(
            stage, num_chunks(model, rows, examples_at_once) if single else num_batches(len(rows), size)
        )
        found = squared_gradients(
            model, rows, engine, importance=importance, batch_size=size, examples_at_once=examples_at_once
        )
        engine.hooks.on_stage_end(stage)
        return found

    return over(split.forget, forget_batch_size or batch_size), over(split.train, batch_size)


def squared_gradients(
    model: nn.Module,
    rows: Rows,
    engine: Engine,
    *,
    importance: Importance = "example",
    batch_size: int = 128,
    examples_at_once: int | None = None,
) -> Gradient:
    """Give the mean of squared gradients over rows, one value a weight, in eval mode.

    With `example`, g is one example's gradient, and the mean is the diagonal of F. With `batch-means`, g is the gradient of a
    batch's mean loss and the mean goes over batches; between the square of the mean gradient and F / batch_size, it depends
    on the batch size.

    Cost: one pass forward and backward over rows. Memory: one gradient, and those of a chunk of examples.

    Args:
        model: left as it was.
        rows: what to read.
        engine: task; counts the cost.
        importance: whose gradient is squared.
        batch_size: examples a batch, for `batch-means`.
        examples_at_once: gradients held at once, for `example`; None to fit the network's size.

    Raises:
        errors.Diverged: a loss is not finite.
    """
    total = {  # squares of half-precision gradients underflow
        name: torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32), requires_grad=False)
        for name, value in trainable(model).items()
    }
    count = 0
    with resting(model):
        if importance == "example":
            for stack in example_gradients(model, rows, engine, examples_at_once):
                count += _add_squares_(total, stack)
        else:
            for _, gradient in batch_gradients(model, rows, engine, batch_size):
                count += _add_squares_(total, {name: value.unsqueeze(0) for name, value in gradient.items()})
                engine.hooks.on_step()
    return {name: value.div_(count) for name, value in total.items()}


@torch.no_grad()
def _add_squares_(total: Gradient, stack: Gradient) -> int:
    """Add the squares of stacked gradients to `total`, in place, and give their number."""
    for name, value in stack.items():
        total[name].add_(value.to(total[name].dtype).square().sum(0))
    return len(next(iter(stack.values())))


def fisher_product(
    model: nn.Module, rows: Rows, engine: Engine, vector: Tensor, *, examples_at_once: int | None = None
) -> Tensor:
    """Give F v, v `[params]` over the trainable parameters in order, without ever forming F, in eval mode.

    F v = mean of g (g . v). The same rows give the same operator each time, drawn augmentations included.

    Cost: one pass forward and backward over rows. Memory: two vectors, and the gradients of a chunk of examples.

    Raises:
        errors.Diverged: a loss is not finite.
    """
    total = torch.zeros_like(vector)
    with resting(model), seeds.isolated(engine.seed, "fisher"):
        for stack in example_gradients(model, rows, engine, examples_at_once):
            gradients = flat(stack, stacked=True).detach()
            total += (gradients @ vector) @ gradients
    return total / len(rows)
