"""Dampen: shrink the weights that matter more to the forget rows than to all rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import checks, errors
from excise.curvature import Importance, forget_and_all_importances, require_importance, trainable
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, OneShot
from excise.train.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Dampen(OneShot):
    """Where I_f > selection * I_D: theta <- theta * min(1, dampening * I_D / I_f).

    I_f and I_D are means of squared gradients in eval mode over the forget rows and over all training rows. No weight grows,
    none changes sign, and the loss is never descended: what was learnt from both is damaged with what was learnt from
    forget. On rows like all others the two are alike, and little or nothing changes. All rows include forget, so I_f is at
    most N / n_f times I_D: a finite `selection` from there on would change nothing, and is refused.

    Reads both. Outside the mask nothing moves, buffers nowhere. Cost: one pass forward and backward over forget and one over
    all training rows; example by example, a pass takes up to three times a batched one (measured on a CPU; ResNet-18 1.6
    times). Memory: two gradients, those of a chunk of examples, and the new
    weights.

    Departs from published codes, which square the gradient of each batch's mean: their importances depend on the batch size,
    and a forget set smaller than a batch looks more important than the same rows among all (the mean of fewer gradients is
    longer), by as much as batch size over forget rows: five rows cut a network down to chance. The default squares each
    example's gradient, which is the paper's definition, and pays for it. `importance="batch-means"` gives theirs, without the
    bound N / n_f, so that a `selection` tuned for one is none for the other.

    References:
        Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening", AAAI
        2024.

    Args:
        selection: how many times as important to forget as to all a weight must be (the paper's alpha); may be infinite.
        dampening: the share of I_D / I_f that is left (the paper's lambda).
        importance: `example` for the diagonal of the empirical Fisher matrix, or the published `batch-means`.
        batch_size: rows a batch, for `batch-means`.
        forget_batch_size: forget rows a batch, for `batch-means`; `batch_size` if None.
        examples_at_once: gradients held at once, for `example`; None to fit the network's size and a CPU. More may be faster
            on an accelerator with memory to spare.
    """

    selection: float = 10.0
    dampening: float = 1.0
    importance: Importance = "example"
    batch_size: int = 128
    forget_batch_size: int | None = None
    examples_at_once: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if not isinstance(self.selection, int | float) or isinstance(self.selection, bool) or not self.selection >= 0:
            raise errors.BadRequest(f"selection: expected a number of at least 0, found {self.selection!r}")
        checks.require_finite("dampening", self.dampening)
        require_importance(
            self.importance,
            batch_size=self.batch_size,
            forget_batch_size=self.forget_batch_size,
            examples_at_once=self.examples_at_once,
        )

    @property
    def needs(self) -> frozenset[Need]:
        """Forget rows, and all rows."""
        return frozenset({"forget", "retain"})

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a selection that no weight can meet."""
        bound = len(split.train) / len(split.forget)
        if self.importance == "example" and bound <= self.selection < math.inf:
            raise errors.BadRequest(
                f"selection: with {len(split.forget)} of {len(split.train)} rows to forget no weight is more than {bound:.3g} "
                f"times as important to them as to all, so {self.selection:g} would change nothing; give less than {bound:.3g}"
            )

    @torch.no_grad()
    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give the dampened weights."""
        forget, every = forget_and_all_importances(
            model,
            split,
            engine,
            stage=type(self).__name__,
            importance=self.importance,
            batch_size=self.batch_size,
            forget_batch_size=self.forget_batch_size,
            examples_at_once=self.examples_at_once,
        )
        edited, own = {}, trainable(model)
        for name in own:
            theirs, whole = forget.pop(name), every.pop(name)
            chosen = theirs > self.selection * whole  # so theirs > 0; inf * 0 is no number and chooses nothing
            left = torch.where(chosen, self.dampening * whole / theirs, 1.0).clamp(max=1.0)
            edited[name] = own[name] * left
        return edited
