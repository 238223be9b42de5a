"""Gradient: the slope of the rows' loss at each weight; and the one scoring pass that other localizers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from excise import checks, errors, params
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.localize.base import Localizer
from excise.localize.scores import Scores
from excise.masks import Shapes
from excise.train.engine import Engine
from excise.train.task import device_of

Accumulate = Literal["mean", "batch-means"]


@dataclass(frozen=True, kw_only=True)
class Gradient(Localizer):
    """Score each weight by |g|, g the gradient of the loss over the forget rows, in eval mode.

    Cost: one pass forward and backward over the rows. Reads forget (or all training rows). Memory: one gradient.

    References:
        Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR 2024.

    Args:
        rows: `forget`, or `train` for every training row (the control that does not know the forget set).
        accumulate: `mean` for the mean over examples, which does not depend on the batch size beyond rounding;
            `batch-means` for the published codes' sum over batches of batch means.
        batch_size: examples a batch.
    """

    rows: Literal["forget", "train"] = "forget"
    accumulate: Accumulate = "mean"
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Check the options."""
        require_scoring_options(self.rows, self.accumulate, self.batch_size)

    @property
    def reads_retain(self) -> bool:
        """Only when scoring every training row."""
        return self.rows == "train"

    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give |g|."""
        found, shapes = accumulated_gradient(model, getattr(split, self.rows), engine, self.accumulate, self.batch_size)
        return Scores({name: gradient.abs_() for name, gradient in found.items()}, shapes)


def require_scoring_options(rows: str, accumulate: str, batch_size: int) -> None:
    """Refuse options no scoring pass understands."""
    if rows not in ("forget", "train"):
        raise errors.BadRequest(f"rows: expected forget or train, found {rows!r}")
    if accumulate not in ("mean", "batch-means"):
        raise errors.BadRequest(f"accumulate: expected mean or batch-means, found {accumulate!r}")
    checks.require_positive_int("batch_size", batch_size)


def accumulated_gradient(
    model: nn.Module, rows: Rows, engine: Engine, accumulate: Accumulate, batch_size: int
) -> tuple[dict[str, Tensor], Shapes]:
    """Give the gradient of the loss over `rows` for every trainable parameter, in eval mode, and all parameters' shapes.

    One pass forward and backward; autograd's own accumulation is the only bookkeeping. The network is left as it was.

    Raises:
        errors.Diverged: the loss is not finite.
    """
    own = params.named_parameters(model)
    engine.hooks.on_stage("localize", -(-len(rows) // batch_size))
    with params.untouched(model), torch.enable_grad():
        model.eval()
        for value in own.values():
            value.grad = None
        for batch in batches(rows, batch_size, device_of(model)):
            losses = engine.task.losses(model, batch)
            loss = losses.mean() if accumulate == "batch-means" else losses.sum() / len(rows)
            if not bool(loss.isfinite()):
                raise errors.Diverged("localize: the loss of these rows is not finite; nothing was changed")
            loss.backward()  # type: ignore[no-untyped-call]
            engine.cost.count(trained=len(batch))
            engine.hooks.on_step()
        found = {
            name: value.grad.to_dense() if value.grad is not None else torch.zeros_like(value)
            for name, value in own.items()
            if value.requires_grad
        }
    engine.hooks.on_stage_end("localize")
    return found, {name: tuple(value.shape) for name, value in own.items()}
