"""Reset: put chosen coordinates back to untrained values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from excise import params
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, OneShot
from excise.train.engine import Engine


@dataclass(frozen=True, kw_only=True, eq=False)
class Reset(OneShot):
    """Write untrained values into the mask: theta <- theta * (1 - m) + theta_0 * m, parameters only.

    Reads no rows. Buffers stay; a later `Finetune` moves them. Cost: none over the data.

    The published DEL code takes theta_0 from a new random network in each process; here it comes from `fresh` and the
    run's seed, so the same seed resets to the same values. Give `to` for the values training started from.

    References:
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025.

    Args:
        to: values by parameter name; None for a fresh network's.
    """

    to: Mapping[str, Tensor] | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """A fresh network, unless values are given."""
        return frozenset() if self.to is not None else frozenset({"fresh"})

    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give the untrained values."""
        return self.to if self.to is not None else params.named_parameters(engine.fresh_model())
