"""`Scores`: how much each weight matters to some rows, and the cut from them to a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from excise import checks, errors
from excise.localize.granularity import Reduction, Top, channel_scores
from excise.localize.select import budget_in_weights, select_channels, select_weights
from excise.masks import Mask

Granularity = Literal["weight", "channel"]


class Scores:
    """Nonnegative scores, one a weight, larger where the weight matters more. Immutable.

    Args:
        values: scores by parameter name, each of its parameter's shape; only weights that may be chosen have one.
        shapes: shapes of all the network's parameters, chosen from or not.

    Raises:
        errors.BadRequest: scores that are negative or not finite, by parameter.
    """

    __slots__ = ("_shapes", "_values")

    def __init__(self, values: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, value in values.items():
            if not bool(value.isfinite().all()) or bool((value < 0).any()):
                raise errors.BadRequest(
                    f"scores of {name!r} are negative or not finite; "
                    "check that the network's weights and its loss on these rows are finite"
                )
        self._values = dict(values)
        self._shapes = dict(shapes)

    def __repr__(self) -> str:
        return f"Scores({self.num_weights:,} weights in {len(self._values)} parameters)"

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that have scores, in the network's order."""
        return tuple(self._values)

    @property
    def num_weights(self) -> int:
        """Weights that can be chosen; budgets are fractions of this."""
        return sum(value.numel() for value in self._values.values())

    def select(
        self,
        *,
        budget_fraction: float,
        granularity: Granularity = "channel",
        reduction: Reduction | None = None,
        partial: bool = False,
    ) -> Mask:
        """Give the mask of the highest scores that a budget pays for, over all layers at once.

        Args:
            budget_fraction: share of the weights that may be chosen, in [0, 1]; floor(share * weights) is the budget.
            granularity: `channel` chooses whole rows (and single weights of one-axis parameters); `weight` chooses single
                weights and meets the budget exactly.
            reduction: how a row's scores become one, `Top(0.1)` if None.
            partial: with channels, let the last one be cut so that the budget is met exactly, as in the published code.

        Returns:
            A mask of at most the budget; for channels short of it by less than the next channel's size.

        Raises:
            errors.BadRequest: a fraction outside [0, 1], an unknown granularity, or a budget that does not pay for the first
                channel.
        """
        checks.require_fraction("budget_fraction", budget_fraction)
        budget = budget_in_weights(budget_fraction, self.num_weights)
        if granularity == "weight":
            chosen = select_weights(self._values, budget)
        elif granularity == "channel":
            chosen = self._channels(budget, reduction or Top(), partial=partial)
        else:
            raise errors.BadRequest(f"granularity: expected weight or channel, found {granularity!r}")
        entries = {
            name: chosen[name] if name in chosen else torch.zeros((1,) * len(shape), dtype=torch.bool)
            for name, shape in self._shapes.items()
        }
        return Mask(entries, self._shapes)

    def _channels(self, budget: int, reduction: Reduction, *, partial: bool) -> dict[str, Tensor]:
        channels = {name: channel_scores(value, reduction).cpu() for name, value in self._values.items()}
        sizes = {name: value.numel() // max(len(channels[name]), 1) for name, value in self._values.items()}
        if budget == 0:
            return {}
        picked, cut = select_channels(channels, sizes, budget)
        if cut and not partial and not any(bool(rows.any()) for rows in picked.values()):
            raise errors.BadRequest(
                f"a budget of {budget} weights does not pay for the first channel, of {cut.name!r} "
                f'({sizes[cut.name]} weights); raise the budget, or use granularity="weight"'
            )
        entries = {}
        for name, rows in picked.items():
            shape = self._values[name].shape
            entries[name] = rows.reshape(-1, *(1,) * (len(shape) - 1)) if len(shape) else rows.reshape(())
        if cut and partial:
            full = entries[cut.name].expand(self._values[cut.name].shape).clone()
            full[cut.row].view(-1)[: cut.num_weights] = True
            entries[cut.name] = full
        return entries
