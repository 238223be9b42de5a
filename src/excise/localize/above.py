"""Above: every weight whose score exceeds a threshold, however many they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise import checks, errors
from excise.data.split import Split
from excise.localize.base import Localizer, Region, require_localizer
from excise.masks import Mask
from excise.train.engine import Engine


@dataclass(frozen=True)
class Above(Region):
    """Every single weight whose score is higher than a threshold: no budget, the rows say how many.

    `Above(FisherRatio(), 10.0)` is the selection of SSD. Reads, costs and keeps in memory what the localizer does; nothing
    is changed.

    Args:
        localizer: gives the scores.
        threshold: in the localizer's own units, at least 0.
    """

    localizer: Localizer
    threshold: float

    def __post_init__(self) -> None:
        """Check the options."""
        require_localizer(self.localizer)
        checks.require_finite("threshold", self.threshold)

    def __str__(self) -> str:
        return f"{type(self.localizer).__name__} by weight, above {self.threshold:g}"

    @property
    def reads_forget(self) -> bool:
        """As the localizer."""
        return self.localizer.reads_forget

    @property
    def reads_retain(self) -> bool:
        """As the localizer."""
        return self.localizer.reads_retain

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Score, then compare.

        Raises:
            errors.BadRequest: no score is higher than the threshold.
        """
        scores = self.localizer.score(model, split, engine)
        mask = scores.above(self.threshold)
        if not mask.num_selected:
            highest = max((float(scores[name].max()) for name in scores.names if scores[name].numel()), default=0.0)
            raise errors.BadRequest(
                f"threshold: no score is above {self.threshold:g}, the highest is {highest:.3g}; lower the threshold"
            )
        return mask
