"""Rows on their way to where they are computed with: indices are moved rather than rows, and no copy waits for another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_WITHOUT_PINNING = ("cpu", "meta", "mps")
"""Devices that share the processor's memory, or have none: there is nothing to pin."""


def pins(device: torch.device) -> bool:
    """Say whether copies to a device pass through page-locked memory, from where they need not be waited for."""
    if device.type in _WITHOUT_PINNING:  # before an accelerator is asked: a forked worker must not touch it
        return False
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator is not None and device.type == accelerator.type


def moved(content: Any, device: torch.device) -> Any:
    """Give what a batch holds on a device; sequences become tuples, what is no tensor stays.

    A copy to an accelerator is not waited for: it is made from page-locked memory, in order with what is computed there. A
    copy from one is.
    """
    if isinstance(content, Tensor):
        if content.device.type == "cpu" and pins(device):
            return content.pin_memory().to(device, non_blocking=True)
        return content.to(device)
    if isinstance(content, dict):
        return {key: moved(value, device) for key, value in content.items()}
    if isinstance(content, tuple | list):
        return tuple(moved(part, device) for part in content)
    return content


def gathered(tensors: tuple[Tensor, ...], ids: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Give the rows `ids` (int64 `[batch]`, on the CPU) of every tensor, on `device`; read where each tensor lies.

    Rows of ordinary memory that go to an accelerator are gathered straight into page-locked memory, of one batch's size:
    pinning a whole data set that did not fit the accelerator would take that memory from everything else.
    """
    places = {tensor.device for tensor in tensors}
    own = {place: moved(ids, place) for place in places}
    return tuple(_gathered(tensor, own[tensor.device], device) for tensor in tensors)


def _gathered(tensor: Tensor, ids: Tensor, device: torch.device) -> Tensor:
    if tensor.device.type == "cpu" and pins(device):
        staged = torch.empty((len(ids), *tensor.shape[1:]), dtype=tensor.dtype, pin_memory=True)
        return torch.index_select(tensor, 0, ids, out=staged).to(device, non_blocking=True)
    found: Tensor = moved(tensor.index_select(0, ids), device)
    return found
