"""Gradient difference: how differently forget and retain rows pull at each weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from excise import checks, errors, seeds
from excise.curvature import Accumulate, require_accumulate
from excise.data.rows import Rows
from excise.data.split import Split
from excise.localize.base import Localizer
from excise.localize.gradient import scoring_gradient
from excise.localize.scores import Scores
from excise.train.engine import Engine

RetainRows = Literal["all", "as-many-as-forget"]


@dataclass(frozen=True, kw_only=True)
class GradientDifference(Localizer):
    """Score each weight by |g_retain - g_forget|, gradients of the two sets' losses, in eval mode.

    A high score says that the two pull at the weight differently. Masked small gradients chooses the *lowest*: weights
    that what is to be forgotten and what is to be kept use alike, or not at all, a share of each convolution:
    `Cut(GradientDifference(...), 0.3, granularity="weight", scope="layer", lowest=True, among=Convolutions())`.

    Reads both. Changes nothing. Cost: one pass forward and backward over forget and one over the retain rows that are
    read. Memory: two gradients.

    Departs from the published code, whose accumulation is `batch-means` with `batch_size=64` and
    `retain_rows="as-many-as-forget"`; it scores in whatever mode the network happens to be in. With `batch-means` and all
    retain rows, g_retain sums over more batches than g_forget and outweighs it.

    References:
        Triantafillou et al., "Are we making progress in unlearning? Findings from the first NeurIPS unlearning
        competition", 2024; Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari, Haddadi, "Deep Unlearn: Benchmarking Machine
        Unlearning", 2024 (MSG).

    Args:
        retain_rows: `all`, or `as-many-as-forget` for as many drawn from the seed (all, where there are not so many).
        accumulate: `mean`, or the published `batch-means`; see `Gradient`.
        batch_size: examples a batch.
    """

    retain_rows: RetainRows = "all"
    accumulate: Accumulate = "mean"
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Check the options."""
        if self.retain_rows not in get_args(RetainRows):
            raise errors.BadRequest(
                f"retain_rows: expected {' or '.join(get_args(RetainRows))}, found {self.retain_rows!r}"
            )
        require_accumulate(self.accumulate)
        checks.require_positive_int("batch_size", self.batch_size)

    @property
    def reads_retain(self) -> bool:
        """Yes."""
        return True

    @torch.no_grad()
    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give |g_retain - g_forget|."""
        retain = scoring_gradient(model, self._retain(split, engine.seed), engine, self.accumulate, self.batch_size)
        forget = scoring_gradient(model, split.forget, engine, self.accumulate, self.batch_size)
        return Scores.of(model, {name: value.sub_(forget[name]).abs_() for name, value in retain.items()})

    def _retain(self, split: Split, seed: int) -> Rows:
        if self.retain_rows == "all" or len(split.retain) <= len(split.forget):
            return split.retain
        order = torch.randperm(len(split.retain), generator=seeds.generator(seed, "localize", "retain rows"))
        return Rows(split.retain.source, split.retain.ids[order[: len(split.forget)]].sort().values)
