"""A mask that is there already, as a region."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise.data.split import Split
from excise.localize.base import Region
from excise.masks import Mask
from excise.train.engine import Engine


@dataclass(frozen=True)
class Given(Region):
    """The mask that it is given. Reads no rows.

    Args:
        mask: of the network that it will be used on.
    """

    mask: Mask

    def __str__(self) -> str:
        return f"a given mask of {self.mask.fraction:.0%}"

    @property
    def reads_forget(self) -> bool:
        """No."""
        return False

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the mask.

        Raises:
            errors.MaskMismatch: it is of another network.
        """
        self.mask.require_fit(model)
        return self.mask
