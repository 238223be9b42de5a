"""What lies in a nest of dicts, lists and tuples, by the names on the way to it; it may hold itself, or one part many times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

MAX_PARTS = 500_000
"""Numbers in lists included."""
MAX_DEPTH = 100
MAX_NAME = 10_000
"""Characters of all names on the way to one part."""

_Leaf = TypeVar("_Leaf")


def leaves(value: object, kind: type[_Leaf]) -> dict[str, _Leaf | Tensor]:
    """Give all that is of a kind, and lists of numbers as tensors, under the names and numbers on the way with dots between.

    Raises:
        ValueError: more parts, deeper or longer names than a file of tensors has; or numbers that no tensor holds.
    """
    found: dict[str, _Leaf | Tensor] = {}
    waiting: list[tuple[str, int, object]] = [("", 0, value)]
    parts = 0
    while waiting:
        name, depth, one = waiting.pop()
        if depth > MAX_DEPTH or len(name) > MAX_NAME:
            raise ValueError(f"a nest more than {MAX_DEPTH} deep, or with names of more than {MAX_NAME} characters")
        nested = type(one) in (dict, list, tuple)
        parts += len(one) if nested else 1  # type: ignore[arg-type]
        if parts > MAX_PARTS:
            raise ValueError(f"a nest of more than {MAX_PARTS} parts")
        if isinstance(one, kind):
            found[name or "tensor"] = one
        elif isinstance(one, list | tuple) and one and all(isinstance(number, int | float) for number in one):
            found[name or "list"] = _numbers(one)
        elif nested:
            inner = one.items() if isinstance(one, dict) else enumerate(one)  # type: ignore[arg-type]
            waiting += [(f"{name}.{key}" if name else str(key), depth + 1, deeper) for key, deeper in inner]
    return found


def _numbers(values: Sequence[float]) -> Tensor:
    try:
        return torch.tensor(values)
    except (RuntimeError, OverflowError, ValueError) as error:
        raise ValueError("a list of numbers that no tensor holds") from error
