"""Sparsify: go on training on what is retained while an L1 penalty shrinks the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from excise import checks, errors
from excise.methods.base import Iterative, Need
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Step


@dataclass(frozen=True, kw_only=True)
class Sparsify(Iterative):
    """Minimise CE(retain) + kappa_e * |theta|_1, inside the mask, with a penalty that fades out over the epochs.

    kappa_e = kappa * (1 - e / (E - no_l1_epochs)) in epoch e < E - no_l1_epochs of E, then 0. The norm goes over every
    parameter, biases and normalisation included, as in the published codes; frozen ones add a constant. A weight of exactly
    0 is not pushed. Weights come close to 0 but are not cut off: no pruning follows.

    Reads retain only. Outside the mask nothing moves. Cost: `plan.epochs` passes forward and backward over retain.

    References:
        Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023,
        arXiv:2304.04934 (L1-sparse).

    Args:
        plan: epochs, optimizer, schedule, batches.
        kappa: weight of the norm in the first epoch.
        no_l1_epochs: epochs at the end without a penalty.
        buffers: rule for running statistics, see `excise.train.masked`; `adapt` is what published codes do.
    """

    plan: TrainPlan
    kappa: float
    no_l1_epochs: int = 0
    buffers: Statistics = "follow-mask"
    streams: ClassVar[tuple[Need, ...]] = ("retain",)

    def __post_init__(self) -> None:
        """Check the options."""
        checks.require_finite("kappa", self.kappa)
        require_statistics(self.buffers)
        without = self.no_l1_epochs
        if not isinstance(without, int) or isinstance(without, bool) or not 0 <= without <= self.plan.epochs:
            raise errors.BadRequest(
                f"no_l1_epochs: expected an integer from 0 to {self.plan.epochs}, the plan's epochs; found {without!r}"
            )

    @property
    def statistics(self) -> Statistics:
        """As given."""
        return self.buffers

    def kappa_at(self, epoch: int) -> float:
        """Give the weight of the norm in an epoch, counted from 0."""
        penalised = self.plan.epochs - self.no_l1_epochs
        return self.kappa * (1 - epoch / penalised) if epoch < penalised else 0.0

    def objective(self, step: Step) -> Tensor:
        """Mean loss of the retain batch, and the weighted norm."""
        loss, kappa = step.mean_loss("retain"), self.kappa_at(step.epoch)
        if kappa == 0:
            return loss
        return loss + kappa * step.total(torch.abs)
