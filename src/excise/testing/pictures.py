"""What checks watch with: pictures of networks, of the process and of objects, and a data set that knows who read it."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from excise import params


def raw(tensor: Tensor) -> bytes:
    """Give a tensor's bytes, so that -0.0 differs from 0.0 and a NaN equals itself."""
    return params.raw_bytes(tensor).tobytes()


def content(model: nn.Module) -> dict[str, bytes]:
    """Give the bytes of every parameter (under all its names) and every buffer."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {name: raw(value) for name, value in (*parameters, *model.named_buffers())}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name the entries that two pictures do not agree in, in order."""
    return [name for name in {**one, **other} if name not in one or name not in other or one[name] != other[name]]


def hooks_of(model: nn.Module) -> list[list[tuple[str, int]]]:
    """Say which hooks hang at each module, by kind and identity."""
    return [
        [(kind, id(hook)) for kind, held in vars(module).items() if _holds_hooks(kind, held) for hook in held.values()]
        for module in model.modules()
    ]


def _holds_hooks(kind: str, held: object) -> bool:
    return kind.endswith("hooks") and isinstance(held, dict)


def network(model: nn.Module) -> dict[str, Any]:
    """Give a picture of everything about a network that a run may not touch, by aspect."""
    values = list(model.parameters())
    return {
        "bytes": content(model),
        "storages": [value.data_ptr() for value in (*values, *model.buffers())],
        "requires_grad": [value.requires_grad for value in values],
        "gradients": [None if value.grad is None else (id(value.grad), raw(value.grad)) for value in values],
        "modes": [module.training for module in model.modules()],
        "hooks": hooks_of(model),
    }


def process() -> dict[str, Any]:
    """Give a picture of what the whole process shares, by aspect."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global state is what is watched
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (kind, np.asarray(keys).tolist(), rest),
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }


def touched(model: nn.Module) -> nn.Module:
    """Give the network gradients, mixed modes and a hook, in place, so that there is something to leave alone."""
    for value in model.parameters():
        value.grad = torch.full_like(value, 0.25)
    for place, module in enumerate(model.modules()):
        module.training = place % 2 == 0
    model.register_forward_hook(lambda *_: None)
    return model


def plainly(value: Any, depth: int = 6) -> Any:
    """Give an object as nested plain values that can be compared: fields by name, tensors by their digest."""
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), hashlib.sha256(raw(value)).hexdigest())
    if isinstance(value, nn.Module):
        return ("network", {name: hashlib.sha256(held).hexdigest() for name, held in content(value).items()})
    if depth == 0 or isinstance(value, type) or callable(value):
        return repr(value)
    if isinstance(value, Mapping):
        return {repr(key): plainly(held, depth - 1) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [plainly(held, depth - 1) for held in value]
    if dataclasses.is_dataclass(value) or "__repr__" not in _defined(value):
        fields = {**_slots(value), **getattr(value, "__dict__", {})}
        return (type(value).__qualname__, {name: plainly(held, depth - 1) for name, held in fields.items()})
    return repr(value)


def _defined(value: Any) -> set[str]:
    return {name for kind in type(value).__mro__[:-1] for name in vars(kind)}


def _slots(value: Any) -> dict[str, Any]:
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


class Unreadable(RuntimeError):
    """What a data set raises that is told to."""


class Watched(Dataset[tuple[Tensor, int]]):
    """Rows of arrays that write down every id that is read.

    Args:
        inputs: `[rows, ...]`.
        labels: int64 `[rows]`.
        fails_after: reads after which the next one raises `Unreadable`; None for never.
        lists_labels: have a list of the labels as `targets`, so that labels can be had without reading rows.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, *, fails_after: int | None = None, lists_labels: bool = False
    ) -> None:
        self.inputs, self.answers = inputs, labels
        self.fails_after = fails_after
        self.read: list[int] = []
        if lists_labels:
            self.targets = labels.tolist()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if self.fails_after is not None and len(self.read) >= self.fails_after:
            raise Unreadable(f"row {row} cannot be read")
        self.read.append(row)
        return self.inputs[row], int(self.answers[row])
