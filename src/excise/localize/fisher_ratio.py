"""Fisher ratio: how many times as important a weight is to the forget rows as to all rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from excise.curvature import Importance, forget_and_all_importances, require_importance
from excise.data.split import Split
from excise.localize.base import Localizer
from excise.localize.scores import Scores
from excise.train.engine import Engine


@dataclass(frozen=True, kw_only=True)
class FisherRatio(Localizer):
    """Score each weight by I_f / I_D, means of squared gradients over forget and over all training rows, in eval mode.

    This is the selection of `methods.Dampen` as scores: `scores.above(selection)` is the set of weights that it dampens
    (but for ratios that equal the selection up to rounding, which division and product may round to either side). Where
    both are 0 the score is 0: such a weight matters to nobody. A gradient that is 0 but for rounding (the bias of an
    attention's keys, on which no output depends) makes a quotient of rounding errors, here and in `Dampen`.

    Every score is finite. With `example`, all rows include forget, N I_D >= n_f I_f, and so no ratio is above N / n_f, with
    N training rows and n_f forget rows. Where I_D is too small for the network's precision and I_f is not, the quotient may
    come out larger or infinite; it is held at N / n_f, which is above any selection that `Dampen` accepts. With
    `batch-means` the gradients of forget rows may cancel in larger batches, and there is no bound: a ratio beyond the
    largest number of the precision, I_D = 0 included, is that number.

    Reads both. Changes nothing. Cost: one pass forward and backward over forget and one over all training rows; example by
    example, a pass takes up to three times a batched one. Memory: two gradients, and those of a chunk of examples.

    Departs from published codes, which square the gradient of each batch's mean; see `methods.Dampen` for what that does.

    References:
        Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening", AAAI
        2024.

    Args:
        importance: `example` for the diagonal of the empirical Fisher matrix, or the published `batch-means`.
        batch_size: rows a batch, for `batch-means`.
        forget_batch_size: forget rows a batch, for `batch-means`; `batch_size` if None.
        examples_at_once: gradients held at once, for `example`; None to fit the network's size and a CPU.
    """

    importance: Importance = "example"
    batch_size: int = 128
    forget_batch_size: int | None = None
    examples_at_once: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        require_importance(
            self.importance,
            batch_size=self.batch_size,
            forget_batch_size=self.forget_batch_size,
            examples_at_once=self.examples_at_once,
        )

    @property
    def reads_retain(self) -> bool:
        """Yes."""
        return True

    @torch.no_grad()
    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give I_f / I_D.

        Raises:
            errors.Diverged: a loss is not finite.
            errors.BadRequest: a gradient is not.
        """
        forget, every = forget_and_all_importances(
            model,
            split,
            engine,
            stage="localize",
            importance=self.importance,
            batch_size=self.batch_size,
            forget_batch_size=self.forget_batch_size,
            examples_at_once=self.examples_at_once,
        )
        values = {}
        for name, theirs in forget.items():
            bound = torch.finfo(theirs.dtype).max
            if self.importance == "example":
                bound = len(split.train) / len(split.forget)
            neither = (theirs == 0) & (every[name] == 0)
            values[name] = theirs.div_(every[name]).masked_fill_(neither, 0.0).clamp_(max=bound)
        return Scores.of(model, values)
