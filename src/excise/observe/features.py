"""Features: what a network's head is given, as arrays on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from excise import params
from excise.data.rows import Rows
from excise.localize.head import linear_head
from excise.train.before_head import embedded
from excise.train.engine import Engine


def features(
    model: nn.Module, rows: Rows, engine: Engine, *, head: str | None = None, batch_size: int = 512
) -> np.ndarray:
    """Give the input of the classifier head for each row, in order of id, in eval mode; the network is left as it was.

    The head is the last module with weights that a forward pass enters, as `localize.head_mask` finds it, and must be an
    `nn.Linear`. A named head may be any module. Runs on a copy that shares the network's weights.

    Cost: one forward pass over the rows, and one over the first row to find the head.

    Args:
        model: may be wrapped.
        rows: what to run.
        engine: task; counts the cost.
        head: name of the module whose input is wanted; None to find it.
        batch_size: rows at a time.

    Returns:
        float64 `[rows, dims]`. What is not finite is passed on.

    Raises:
        errors.UnsupportedModel: no linear head, or one that is not run exactly once a batch on `[batch, dims]`.
    """
    shadow = params.shadow_of(model)
    name = linear_head(shadow, rows, engine.task) if head is None else head
    given = embedded(shadow, rows, engine, head=name, batch_size=batch_size)
    return torch.cat([batch.features.cpu().double() for batch in given]).numpy()
