"""SwitchOff: put chosen coordinates at zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from excise import params
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, OneShot
from excise.train.engine import Engine


@dataclass(frozen=True)
class SwitchOff(OneShot):
    """Write zeros into the mask: theta <- theta * (1 - m), parameters only.

    At `localize.TiedChannels` it closes the gates of what a network trained with `networks.ExampleTiedDropout` keeps of the
    forget rows; at `localize.CriticalChannels` it is what that search did for each row, done for all rows at once; at any
    other mask it prunes. A channel of zeros still hands on its bias, and normalisation moves it.

    Reads no rows. Buffers stay. Cost: none over the data. Memory: none.

    References:
        Maini et al., "Can Neural Network Memorization Be Localized?", ICML 2023.
    """

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give zeros."""
        own = params.named_parameters(model)
        return {name: value.detach().new_zeros(()).expand(value.shape) for name, value in own.items()}
