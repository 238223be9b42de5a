"""The sum of an epoch's losses, and when they are looked at: a look at a number makes an accelerator and its queue wait."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EVERY = 50
"""Steps on an accelerator between two looks at the losses. On a CPU, where a look costs nothing, every step."""

Finite = Callable[[Tensor, int], float]
"""`(loss, epoch) -> value`, raising `Diverged` where the loss is not finite; see `Sound.require_finite`."""


def looks_every(kind: str) -> int:
    """Give the number of steps between two looks, on a kind of device."""
    return 1 if kind == "cpu" else EVERY


class Losses:
    """Losses of an epoch's steps, added up in their order, so that the sum does not depend on when they are looked at.

    A loss that is not finite stops the run when it is looked at: on an accelerator up to `EVERY` steps late, at the end of
    its epoch at the latest, before the epoch is taken for sound. What is put back is the same, the last sound epoch.

    Args:
        require_finite: gives the value of a loss on the CPU.
        every: steps between two looks.
        epoch: counted from 0.
        total: of earlier steps of the epoch.
    """

    def __init__(self, require_finite: Finite, every: int, epoch: int, total: float = 0.0) -> None:
        self._require, self._every, self._epoch, self._total = require_finite, every, epoch, total
        self._waiting: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Add a step's loss; the graph is not kept.

        Raises:
            errors.Diverged: this loss, or one before it that is only looked at now, is not finite.
        """
        self._waiting.append(loss.detach())
        if len(self._waiting) >= self._every:
            self.total()

    def total(self) -> float:
        """Look at what was added and give the sum.

        Raises:
            errors.Diverged: a loss is not finite.
        """
        waiting, self._waiting = self._waiting, []
        if len(waiting) == 1:
            self._total += self._require(waiting[0], self._epoch)
        elif waiting:
            places = {loss.device.type: loss.device for loss in waiting}  # a loss of nothing may lie on the CPU
            device = next((place for kind, place in places.items() if kind != "cpu"), waiting[0].device)
            for value in torch.stack([loss.to(device) for loss in waiting]).cpu():
                self._total += self._require(value, self._epoch)
        return self._total
