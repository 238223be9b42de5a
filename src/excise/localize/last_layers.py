"""The last layers of a network, by number."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise import checks, errors
from excise.data.split import Split
from excise.localize.base import Region
from excise.localize.depth import Deepest
from excise.masks import Mask
from excise.train.engine import Engine


@dataclass(frozen=True)
class LastLayers(Region):
    """The k layers nearest to the output, whole. Layers are modules with weights of their own, as `Deepest` counts them:
    normalisations are among them.

    Reads one forget row, forward.

    References:
        Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning", 2022, arXiv:2201.06640 (CF-k, EU-k).

    Args:
        k: number of layers, at least 1.
    """

    k: int

    def __post_init__(self) -> None:
        """Check the number."""
        checks.require_positive_int("k", self.k)

    def __str__(self) -> str:
        return f"the last {self.k} layers" if self.k > 1 else "the last layer"

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the mask of the k layers.

        Raises:
            errors.BadRequest: the network has fewer layers that run.
            errors.UnsupportedModel: as for `Deepest`.
        """
        scores = Deepest().score(model, split, engine)
        depths = sorted({float(scores[name].max()) for name in scores.names if scores[name].numel()} - {0.0})
        if self.k > len(depths):
            raise errors.BadRequest(
                f"k: expected at most {len(depths)}, the layers of {type(model).__name__} that run and are not frozen, "
                f"found {self.k}"
            )
        return scores.above(depths[-self.k - 1] if self.k < len(depths) else 0.0)
