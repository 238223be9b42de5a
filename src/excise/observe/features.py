"""Features: what a network's head is given, as arrays on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from excise import errors, params
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.localize.order import entered_modules
from excise.train.engine import Engine
from excise.train.task import device_of


@torch.no_grad()
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
    name = _found(shadow, rows, engine) if head is None else head
    module = _named(shadow, name)
    seen: list[Any] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(_copied(inputs)))
    given: list[Tensor] = []
    try:
        for batch in batches(rows, batch_size, device_of(shadow)):
            seen.clear()
            engine.task.forward(shadow, batch.content)
            engine.cost.count(forward=len(batch))
            _require_one(name, seen, len(batch))
            given.append(seen[0].cpu().double())
    finally:
        handle.remove()
    return torch.cat(given).numpy()


def _found(shadow: nn.Module, rows: Rows, engine: Engine) -> str:
    ran = entered_modules(shadow, rows, engine.task)
    last = shadow.get_submodule(ran[-1]) if ran else shadow
    if not isinstance(last, nn.Linear):
        where = (
            f"the last module with weights is {ran[-1]!r}, a {type(last).__name__}"
            if ran
            else "no module with weights runs"
        )
        raise errors.UnsupportedModel(
            f"features: expected a network whose head is an nn.Linear, found that in {type(shadow).__name__} {where}; "
            "name the module whose input is wanted (head=)"
        )
    return ran[-1]


def _named(shadow: nn.Module, name: str) -> nn.Module:
    try:
        return shadow.get_submodule(name)
    except AttributeError as error:
        known = ", ".join(known for known, _ in shadow.named_modules() if known)
        raise errors.UnsupportedModel(
            f"head: {type(shadow).__name__} has no module named {name!r}; it has {known}"
        ) from error


def _copied(inputs: tuple[Any, ...]) -> Any:
    """Give a copy of a module's input, which the network may write into later; something else as it is."""
    first = inputs[0] if inputs else None
    return first.clone() if isinstance(first, Tensor) else first


def _require_one(name: str, seen: list[Any], num_rows: int) -> None:
    if len(seen) != 1:
        raise errors.UnsupportedModel(
            f"features: expected the head {name!r} to run once a batch, it ran {len(seen)} times; "
            "name a module that runs once (head=)"
        )
    if not isinstance(seen[0], Tensor) or seen[0].ndim != 2 or len(seen[0]) != num_rows:
        found = list(seen[0].shape) if isinstance(seen[0], Tensor) else type(seen[0]).__name__
        raise errors.UnsupportedModel(
            f"features: expected the head {name!r} to be given [{num_rows}, dims] for {num_rows} rows, found {found}; "
            "name a module that is given one vector a row (head=)"
        )
