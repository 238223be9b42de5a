"""Channels: what a row of a parameter is, and how its weights' scores become one score.

A channel is an index along a parameter's first axis: an output channel of a convolution, a neuron of a linear layer, an
entry of an embedding table. A parameter with one axis or none (a bias, a normalisation's scale) has no rows to speak of:
each of its weights is a channel of its own and competes with its own score, as in the published DEL code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from excise import checks, errors


class Reduction(ABC):
    """How the scores of a channel's weights become the channel's score."""

    @property
    def by_row(self) -> bool:
        """Whether a row's score depends on that row alone, and not on how many there are."""
        return False

    @abstractmethod
    def reduce(self, rows: Tensor) -> Tensor:
        """Turn scores `[rows, weights]` into `[rows]`."""


@dataclass(frozen=True)
class Mean(Reduction):
    """The mean over the row."""

    by_row = True

    def reduce(self, rows: Tensor) -> Tensor:
        """Take the mean."""
        return rows.mean(1)


@dataclass(frozen=True)
class Top(Reduction):
    """The mean over the row's highest scores.

    How many is `share` of the row's length, at least one and at most the row, so that it is defined for any network: a
    depthwise convolution (9 weights a row), a head of 3 classes. The paper says "top-h within a channel" and leaves h
    open; its code takes a share of the *number of rows* of the layer, which is 0 for a head of fewer than 10 classes (NaN
    scores) and more than a row holds for a depthwise convolution (an error). `of="layer"` is that rule, held within 1 and
    the row.

    Args:
        share: in (0, 1].
        of: `row` for a share of the row's length, `layer` for a share of the number of rows.
    """

    share: float = 0.1
    of: Literal["row", "layer"] = "row"

    def __post_init__(self) -> None:
        """Check both."""
        if checks.require_fraction("share", self.share) == 0:
            raise errors.BadRequest("share: expected a fraction above 0, found 0")
        if self.of not in ("row", "layer"):
            raise errors.BadRequest(f"of: expected row or layer, found {self.of!r}")

    @property
    def by_row(self) -> bool:
        """Not where the number of rows says how many count."""
        return self.of == "row"

    def count(self, num_rows: int, row_length: int) -> int:
        """Give the number of scores that count in a row."""
        wanted = int(self.share * (row_length if self.of == "row" else num_rows))
        return min(max(1, wanted), row_length)

    def reduce(self, rows: Tensor) -> Tensor:
        """Take the mean of the highest."""
        return rows.topk(self.count(*rows.shape), dim=1, sorted=False).values.mean(1)


def channel_scores(scores: Tensor, reduction: Reduction) -> Tensor:
    """Give one score a channel, `[channels]`: a row of a parameter with two axes or more, else each weight."""
    if scores.ndim < 2:
        return scores.reshape(-1)
    if scores.numel() == 0:
        return scores.new_zeros(scores.shape[0])
    return reduction.reduce(scores.reshape(scores.shape[0], -1))
