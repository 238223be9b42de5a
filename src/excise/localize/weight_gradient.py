"""Weight times gradient: the first-order change of the rows' loss if a weight were set to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from excise.curvature import Accumulate
from excise.data.split import Split
from excise.localize.base import Localizer
from excise.localize.gradient import require_scoring_options, scored
from excise.localize.scores import Scores
from excise.train.engine import Engine


@dataclass(frozen=True, kw_only=True)
class WeightGradient(Localizer):
    """Score each weight by |theta * g|, g the gradient of the loss over the forget rows, in eval mode.

    Because theta does not move while scoring, the sum over batches of theta * g_B is theta times the accumulated
    gradient: one backward pass, no bookkeeping a batch. Unlike |g|, the score does not change when consecutive ReLU layers
    are rescaled (W1 -> c W1, W2 -> W2 / c).

    Cost: one pass forward and backward over the rows. Reads forget (or all training rows). Memory: one gradient.

    References:
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025,
        Algorithm 1. The published code shuffles and drops the last partial batch; every row counts here.

    Args:
        rows: `forget`, or `train` for every training row (the control that does not know the forget set).
        accumulate: `mean`, or the published `batch-means`; see `Gradient`.
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
        """Give |theta * g|."""
        rows = getattr(split, self.rows)
        return scored(
            model, rows, engine, self.accumulate, self.batch_size, lambda gradient, own: gradient.mul_(own).abs_()
        )
