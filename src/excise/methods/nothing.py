"""Nothing: leave the network as it is. The control that every audit must fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, OneShot
from excise.train.engine import Engine


@dataclass(frozen=True)
class Nothing(OneShot):
    """Change no coordinate. Reads no rows and costs nothing."""

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give no new value."""
        return {}
