"""Prune: set the smallest weights to zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import checks, errors, params
from excise.data.split import Split
from excise.localize.scores import SCOPES, Scope
from excise.localize.select import budget_in_weights, select_weights
from excise.masks import Mask
from excise.methods.base import Need, OneShot
from excise.train.engine import Engine
from excise.train.masked import effective


@dataclass(frozen=True, kw_only=True)
class Prune(OneShot):
    """Set the given share of the weights in the mask to zero, those of smallest |theta|.

    Weights of all layers compete, and exactly floor(fraction * weights) become zero; ties go to the parameters that come
    first, then to the lower index. What is outside the mask neither counts nor moves, nor do parameters that the user froze.
    Done twice it changes no more than once.

    Reads no rows. Buffers stay. Cost: none over the data. Memory: one copy of the weights in the mask.

    Departs from the paper, whose networks stay sparse while they unlearn: here a `Finetune` after this regrows what it may
    train. The paper's code prunes the kernels of convolutions alone, all layers together: for that, run it `Within` the
    region `Convolutions()`.

    References:
        Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023 (prune
        first, then unlearn).

    Args:
        fraction: share of the weights to set to zero, in [0, 1].
        scope: `network` for one share of all weights together; `layer` for the same share of each parameter's own weights,
            rounded to the nearest.
        biases: count and prune one-axis parameters (biases, normalisation) too.
    """

    fraction: float
    scope: Scope = "network"
    biases: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        checks.require_fraction("fraction", self.fraction)
        if self.scope not in SCOPES:
            raise errors.BadRequest(f"scope: expected one of {', '.join(SCOPES)}, found {self.scope!r}")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    @torch.no_grad()
    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give the weights with the smallest ones at zero."""
        allowed = effective(mask, model)
        own = {
            name: value.detach()
            for name, value in params.named_parameters(model).items()
            if allowed.count(name) and (self.biases or value.ndim > 1)
        }
        inside = {name: allowed.expand(name).to(value.device) for name, value in own.items()}
        smallest = self._smallest({name: value[inside[name]].abs() for name, value in own.items()})
        edited = {}
        for name, value in own.items():
            pruned = torch.zeros_like(value, dtype=torch.bool)
            pruned[inside[name]] = smallest[name]
            edited[name] = value.masked_fill(pruned, 0.0)
        return edited

    def _smallest(self, sizes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Choose among the magnitudes of the weights in the mask, `[weights]` by parameter."""
        if self.scope == "layer":
            return {
                name: select_weights({name: size}, round(self.fraction * len(size)), lowest=True)[name]
                for name, size in sizes.items()
            }
        total = sum(len(size) for size in sizes.values())
        return select_weights(sizes, budget_in_weights(self.fraction, total), lowest=True)
