"""Cut: scores and a budget, and so a mask."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise import checks, errors
from excise.data.split import Split
from excise.localize.base import Localizer, Region, require_localizer
from excise.localize.granularity import Reduction
from excise.localize.random import require_same_unit
from excise.localize.scores import Count, Granularity, Scope, require_cut
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.masked import effective


@dataclass(frozen=True)
class Cut(Region):
    """The highest scores of a localizer that a budget pays for; see `Scores.select`, whose options these are.

    Reads and costs what the localizer does.

    Args:
        localizer: gives the scores.
        budget_fraction: share of the weights (or channels) that may be chosen.
        granularity: whole channels, single weights, or whole modules.
        count: whether the budget is a share of the weights or of the channels.
        scope: one budget for the network, or the same share of each parameter.
        lowest: choose the lowest scores instead.
        reduction: how a channel's scores become one, `Top(0.1)` if None.
        partial: with channels or modules, let the last one be cut so that the budget is met exactly.
        among: choose within this region only; it must hold whole parameters, and at least one that is not frozen.

    Raises:
        errors.BadRequest: options that do not go together.
        errors.UnsupportedModel: (when called) the network has nothing to choose from in that region.
    """

    localizer: Localizer
    budget_fraction: float = 0.3
    granularity: Granularity = "channel"
    count: Count = "weights"
    scope: Scope = "network"
    lowest: bool = False
    reduction: Reduction | None = None
    partial: bool = False
    among: Region | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        require_localizer(self.localizer)
        checks.require_fraction("budget_fraction", self.budget_fraction)
        require_cut(self.granularity, self.count, self.scope, partial=self.partial)
        require_same_unit(self.localizer, self.granularity)

    def __str__(self) -> str:
        end = " of each parameter" if self.scope == "layer" else ""
        low = "lowest " if self.lowest else ""
        among = "" if self.among is None else f" among {self.among}"
        return (
            f"{type(self.localizer).__name__} by {self.granularity}, {low}{self.budget_fraction:.0%}"
            f"{' of the channels' if self.count == 'channels' else ''}{end}{among}"
        )

    @property
    def reads_forget(self) -> bool:
        """As the localizer, or the region to choose among."""
        return self.localizer.reads_forget or (self.among is not None and self.among.reads_forget)

    @property
    def reads_retain(self) -> bool:
        """As the localizer, or the region to choose among."""
        return self.localizer.reads_retain or (self.among is not None and self.among.reads_retain)

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Score, then select."""
        among = None if self.among is None else self.among.locate(model, split, engine)
        if among is not None and not effective(among, model).num_selected:
            raise errors.UnsupportedModel(
                f"among: {type(model).__name__} has no weights to choose from here: {self.among}; choose among others"
            )
        scores = self.localizer.score(model, split, engine)
        return (scores if among is None else scores.among(among)).select(
            budget_fraction=self.budget_fraction,
            granularity=self.granularity,
            count=self.count,
            scope=self.scope,
            lowest=self.lowest,
            reduction=self.reduction,
            partial=self.partial,
        )
