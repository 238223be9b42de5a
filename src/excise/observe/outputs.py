"""`Outputs`: what a network says about some rows, as arrays on the CPU, keyed by id."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from excise import errors, params
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.train.engine import Engine
from excise.train.task import device_of


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network says about some rows, in eval mode.

    Attributes:
        ids: int64 `[examples]`, ascending.
        logits: float64 `[examples, classes]`, raw.
        targets: int64 `[examples]`.
        losses: float64 `[examples]`, by the task's own loss.
    """

    ids: np.ndarray
    logits: np.ndarray
    targets: np.ndarray
    losses: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@torch.no_grad()
def collect(model: nn.Module, rows: Rows, engine: Engine, *, batch_size: int = 512) -> Outputs:
    """Run a network over rows in order of id, in eval mode; it is left as it was.

    Cost: one forward pass over the rows. What is not finite is passed on for the audit to see.

    Raises:
        errors.BadRequest: a loss that does not give one value an example.
    """
    logits, targets, losses = [], [], []
    with params.untouched(model):
        model.eval()
        for batch in batches(rows, batch_size, device_of(model)):
            found, wanted = engine.task.forward(model, batch.content)
            each = engine.task.loss(found.float() if found.dtype.itemsize < 4 else found, wanted)
            if each.shape != (len(batch),):
                raise errors.BadRequest(
                    f"loss: expected one value for each of {len(batch)} examples, found shape {tuple(each.shape)}; "
                    'use reduction="none"'
                )
            logits.append(found.cpu().double())  # in this order: not every device has float64
            targets.append(wanted.cpu())
            losses.append(each.cpu().double())
            engine.cost.count(forward=len(batch))
    return Outputs(rows.ids.numpy(), torch.cat(logits).numpy(), torch.cat(targets).numpy(), torch.cat(losses).numpy())
