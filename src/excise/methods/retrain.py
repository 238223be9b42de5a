"""Retrain: start from an untrained network and train on what is retained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from excise import params
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Method, Need
from excise.methods.finetune import Finetune
from excise.train.engine import Engine
from excise.train.masked import effective, held_modules, write_
from excise.train.plan import TrainPlan, require_plan


@dataclass(frozen=True, kw_only=True)
class Retrain(Method):
    """Train a fresh network on the retain rows: the honest answer, and with few epochs the row to beat.

    Reads retain only. Parameters and buffers of the mask start afresh; with the full mask nothing of the old network is
    left. Cost: `plan.epochs` passes forward and backward over retain.

    Args:
        plan: epochs, optimizer, schedule, batches; the schedule runs to its end whatever the number of epochs.
    """

    plan: TrainPlan

    def __post_init__(self) -> None:
        """Check that the plan is one."""
        require_plan(self.plan, "Retrain")

    @property
    def needs(self) -> frozenset[Need]:
        """Retain rows and a fresh network."""
        return frozenset({"retain", "fresh"})

    @torch.enable_grad()
    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Write the fresh network inside the mask, then finetune, in place."""
        self._start_afresh_(model, mask, engine)
        Finetune(plan=self.plan).unlearn_(model, split, mask, engine)

    def _start_afresh_(self, model: nn.Module, mask: Mask, engine: Engine) -> None:
        """Write the fresh network inside the mask, in place; it is gone before training starts."""
        fresh = engine.fresh_model()
        write_(model, params.named_parameters(fresh), mask)
        held = set(held_modules(model, effective(mask, model), self.statistics))
        untrained = params.named_buffers(fresh)
        for name, buffer in params.named_buffers(model).items():
            if name.rpartition(".")[0] not in held:
                buffer.copy_(untrained[name])
