"""Which rows a network gets wrong, as rules ask after an epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from excise import params, seeds
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.train.engine import Engine
from excise.train.task import device_of, require_class_targets


@torch.no_grad()
def judged(
    model: nn.Module, rows: Rows, engine: Engine, *, batch_size: int, asking: str, remedy: str
) -> tuple[Tensor, Tensor]:
    """Give which rows a network gets wrong and their targets, both `[rows]` on the CPU, in eval mode.

    Network and randomness are left alone. Cost: one forward pass over the rows.

    Args:
        model: the network.
        rows: to run.
        engine: task and seed; counts the cost.
        batch_size: rows at a time.
        asking: who asks, the first word of a message.
        remedy: what to do where targets are no classes, its last words.

    Raises:
        errors.BadData: targets that are no integer classes of the network.
    """
    wrong, wanted = [], []
    with params.untouched(model), seeds.isolated(engine.seed, asking):
        model.eval()
        for batch in batches(rows, batch_size, device_of(model)):
            logits, targets = engine.task.forward(model, batch.content)
            engine.cost.count(forward=len(batch))
            require_class_targets(targets, logits, asking, remedy=remedy)
            wrong.append((logits.argmax(1) != targets).cpu())
            wanted.append(targets.cpu())
    return torch.cat(wrong), torch.cat(wanted)
