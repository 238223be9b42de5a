"""Gradient: the slope of the rows' loss at each weight; and the one scoring pass that other localizers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from excise import checks, errors, params
from excise.curvature import Accumulate, require_accumulate, summed_gradient
from excise.data.batches import num_batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.localize.base import Localizer
from excise.localize.scores import Scores
from excise.localize.sharded import sharded_scores
from excise.train.engine import Engine


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
        rows = getattr(split, self.rows)
        return scored(model, rows, engine, self.accumulate, self.batch_size, lambda gradient, _: gradient.abs_())


def require_scoring_options(rows: str, accumulate: str, batch_size: int) -> None:
    """Refuse options no scoring pass understands."""
    if rows not in ("forget", "train"):
        raise errors.BadRequest(f"rows: expected forget or train, found {rows!r}")
    require_accumulate(accumulate)
    checks.require_positive_int("batch_size", batch_size)


def scoring_gradient(
    model: nn.Module, rows: Rows, engine: Engine, accumulate: Accumulate, batch_size: int
) -> dict[str, Tensor]:
    """Give `curvature.summed_gradient` over rows as a stage of its own."""
    engine.hooks.on_stage("localize", num_batches(len(rows), batch_size))
    found = summed_gradient(model, rows, engine, batch_size=batch_size, accumulate=accumulate)
    engine.hooks.on_stage_end("localize")
    return found


@torch.no_grad()
def scored(
    model: nn.Module,
    rows: Rows,
    engine: Engine,
    accumulate: Accumulate,
    batch_size: int,
    score: Callable[[Tensor, Tensor], Tensor],
) -> Scores:
    """Give the scores that a function makes of the rows' gradient at a parameter, and of its weights.

    Where parameters lie in parts, each process scores its own rows. The function may write to the gradient.
    """
    if engine.processes.sharded:
        return sharded_scores(model, rows, engine, accumulate, batch_size, score)
    found, own = scoring_gradient(model, rows, engine, accumulate, batch_size), params.named_parameters(model)
    return Scores.of(model, {name: score(gradient, own[name]) for name, gradient in found.items()})
