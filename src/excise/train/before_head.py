"""What a network's head is given, one vector a row: heard by a hook for the length of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from excise import errors
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.train.engine import Engine
from excise.train.task import device_of


class Embedded(NamedTuple):
    """A batch as a network sees it, on the network's device.

    Attributes:
        features: what the head was given, `[batch, dims]`.
        logits: as the task's forward gives them.
        targets: likewise.
    """

    features: Tensor
    logits: Tensor
    targets: Tensor


@contextmanager
def before_head(network: nn.Module, head: str) -> Iterator[Callable[[int], Tensor]]:
    """Listen to what a module of a network is given, for the block; its hook is taken away in the end, also on failure.

    Gives a function: called after a forward pass with the number of its rows, it gives `[rows, dims]` with gradient, a copy
    that nobody else writes to, and is ready for the next pass.

    Raises:
        errors.UnsupportedModel: no such module; on asking, one that did not run exactly once, on `[rows, dims]`.
    """
    seen: list[Any] = []

    def given(num_rows: int) -> Tensor:
        heard = seen.copy()
        seen.clear()
        return _only(head, heard, num_rows)

    handle = _named(network, head).register_forward_pre_hook(lambda _, inputs: seen.append(_copied(inputs)))
    try:
        yield given
    finally:
        handle.remove()


def embedded(shadow: nn.Module, rows: Rows, engine: Engine, *, head: str, batch_size: int) -> Iterator[Embedded]:
    """Give what a network makes of rows, batch by batch in order of id, without gradient. Cost: one forward pass over them.

    Args:
        shadow: of the network, see `params.shadow_of`: it is run, in the mode that it is in.
        rows: what to run.
        engine: task; counts the cost.
        head: name of the module whose input is wanted.
        batch_size: rows at a time.

    Raises:
        errors.UnsupportedModel: as `before_head`.
    """
    with before_head(shadow, head) as given:
        for batch in batches(rows, batch_size, device_of(shadow)):
            with torch.no_grad():
                logits, targets = engine.task.forward(shadow, batch.content)
            engine.cost.count(forward=len(batch))
            yield Embedded(given(len(batch)), logits, targets)


def _named(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        known = ", ".join(known for known, _ in network.named_modules() if known)
        raise errors.UnsupportedModel(
            f"head: {type(network).__name__} has no module named {name!r}; it has {known}"
        ) from error


def _copied(inputs: tuple[Any, ...]) -> Any:
    """Give a copy of a module's input, which the network may write into later; something else as it is."""
    first = inputs[0] if inputs else None
    return first.clone() if isinstance(first, Tensor) else first


def _only(name: str, seen: list[Any], num_rows: int) -> Tensor:
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
    return seen[0]
