"""Contrast: descend the loss of the retain rows while ascending that of the forget rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from excise import checks
from excise.methods.base import Iterative, Need, require_forget_batch_size
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Step


@dataclass(frozen=True, kw_only=True)
class Contrast(Iterative):
    """Minimise alpha * CE(retain) - (1 - alpha) * CE(forget), inside the mask.

    Two forward passes a step, retain first, so that with batch normalisation each batch is normalised by itself and moves
    the running statistics in turn. At alpha 1 the parameters are those of `Finetune`; at 0, those of
    `Ascend(pace="retain", buffers="adapt")`.

    Reads both: retain rows pace the steps, forget rows are cycled through. Outside the mask nothing moves. Cost:
    `plan.epochs` passes forward and backward over retain, and one forget batch a step besides: with equal batch sizes,
    twice `Finetune`'s. The objective has no bound for alpha < 1: keep the steps few.

    Departs from published codes: SCRUB's small-scale script runs in eval mode and also pulls towards the trained weights.

    References:
        Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS 2023 (NegGrad+).

    Args:
        plan: epochs, optimizer, schedule, batches.
        alpha: weight of the retain rows, in [0, 1].
        forget_batch_size: forget rows a step, the plan's batch size if None.
        buffers: rule for running statistics, see `excise.train.masked`; `adapt` is what published codes do.
    """

    plan: TrainPlan
    alpha: float
    forget_batch_size: int | None = None
    buffers: Statistics = "follow-mask"
    streams: ClassVar[tuple[Need, ...]] = ("retain", "forget")

    def __post_init__(self) -> None:
        """Check the options."""
        checks.require_fraction("alpha", self.alpha)
        require_statistics(self.buffers)
        require_forget_batch_size(self.forget_batch_size)

    @property
    def statistics(self) -> Statistics:
        """As given."""
        return self.buffers

    def objective(self, step: Step) -> Tensor:
        """The weighted difference of the two batches' mean losses."""
        return self.alpha * step.mean_loss("retain") - (1 - self.alpha) * step.mean_loss("forget")
