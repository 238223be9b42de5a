"""Finetune: go on training on what is retained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from excise.methods.base import Iterative, Need
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Step


@dataclass(frozen=True, kw_only=True)
class Finetune(Iterative):
    """Minimise the loss over the retain rows, inside the mask.

    Reads retain only. Outside the mask nothing moves. Cost: `plan.epochs` passes forward and backward over retain.

    References:
        Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020 (as a baseline).

    Args:
        plan: epochs, optimizer, schedule, batches.
        buffers: rule for running statistics, see `excise.train.masked`; `adapt` is what published codes do.
    """

    plan: TrainPlan
    buffers: Statistics = "follow-mask"
    streams: ClassVar[tuple[Need, ...]] = ("retain",)

    def __post_init__(self) -> None:
        """Check the rule."""
        require_statistics(self.buffers)

    @property
    def statistics(self) -> Statistics:
        """As given."""
        return self.buffers

    def objective(self, step: Step) -> Tensor:
        """Mean loss of the retain batch."""
        return step.mean_loss("retain")
