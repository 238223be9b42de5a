"""Where rows lie while a run reads them: array data once on the network's device, other data read ahead by processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from excise.data.moving import gathered
from excise.data.rows import ArraySource, DatasetSource, JoinedSource, Rows, Source
from excise.data.split import Split

OnDevice = Literal["auto", "never", "always"]
ON_DEVICE: tuple[OnDevice, ...] = get_args(OnDevice)
SHARE = 0.5
"""Of an accelerator's free memory, what array data may take: the rest is for weights, gradients and activations."""


@dataclass(frozen=True, eq=False)
class PlacedSource(ArraySource):
    """Rows of arrays of which a copy lies on an accelerator.

    Attributes:
        tensors: as they were given; what is read to the CPU is read from them.
        near: the copy. What is read to its device is read from it, so that ids travel and rows do not.
    """

    near: tuple[Tensor, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return ArraySource, (self.tensors,)  # to another process goes what was given: its devices are its own

    def read_to(self, ids: Tensor, device: torch.device) -> Any:
        """Index the copy if it lies on `device`, else what was given."""
        return gathered(self.near if self.near[0].device == device else self.tensors, ids, device)


def placed(split: Split, device: torch.device, *, on_device: OnDevice = "auto", workers: int = 0) -> Split:
    """Give the split with its data where a network on `device` reads them fastest; the rows and their ids stay the same.

    On a CPU, without workers, that is the split itself. Split, sources and copies live as long as what is returned.

    Args:
        split: its data are left as they are.
        device: the network's.
        on_device: `auto` copies array data to an accelerator if they take at most `SHARE` of its free memory; `always`
            and `never` do as they say.
        workers: processes that read ahead from data that are no arrays.
    """
    known: dict[int, Source] = {}

    def of(rows: Rows | None) -> Rows | None:
        if rows is None:
            return None
        if id(rows.source) not in known:
            known[id(rows.source)] = _placed(rows.source, device, on_device, workers)
        return Rows(known[id(rows.source)], rows.ids)

    parts = {name: getattr(split, name) for name in Split.__slots__}
    there = {name: of(rows) for name, rows in parts.items()}
    if all(rows is None or rows.source is parts[name].source for name, rows in there.items()):
        return split
    return split.over(there)


def _placed(source: Source, device: torch.device, on_device: OnDevice, workers: int) -> Source:
    if isinstance(source, JoinedSource):
        both = [_placed(one, device, on_device, workers) for one in (source.first, source.second)]
        same = both[0] is source.first and both[1] is source.second
        return source if same else JoinedSource(both[0], both[1])
    if isinstance(source, DatasetSource):
        return source if source.workers == workers else DatasetSource(source.dataset, workers)
    if not isinstance(source, ArraySource) or (isinstance(source, PlacedSource) and source.near[0].device == device):
        return source
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in source.tensors)
    inside = all(tensor.device == device for tensor in source.tensors)
    if inside or not worth_a_copy(
        num_bytes, device.type, None if device.type == "cpu" else free_bytes(device), on_device
    ):
        return source
    return PlacedSource(source.tensors, tuple(tensor.to(device) for tensor in source.tensors))


def worth_a_copy(num_bytes: int, kind: str, free: int | None, on_device: OnDevice) -> bool:
    """Say whether array data of so many bytes are copied to a device of a kind with so much memory free (None: unknown).

    >>> worth_a_copy(10, "cpu", None, "always"), worth_a_copy(50, "xpu", 100, "auto"), worth_a_copy(51, "xpu", 100, "auto")
    (False, True, False)
    """
    if kind == "cpu" or on_device == "never":
        return False
    return on_device == "always" or (free is not None and num_bytes <= SHARE * free)


def free_bytes(device: torch.device) -> int | None:
    """Give how much memory of an accelerator is free now; None where torch cannot say."""
    return _memory(device, 0)


def total_bytes(device: torch.device) -> int | None:
    """Give how much memory an accelerator has; None for a CPU, and where torch cannot say."""
    return None if device.type == "cpu" else _memory(device, 1)


def _memory(device: torch.device, place: int) -> int | None:
    if not torch.accelerator.is_available():
        return None
    ask = getattr(torch.get_device_module(device), "mem_get_info", None)  # torch.accelerator has it from 2.9 on only
    return None if ask is None else int(ask(device)[place])
