"""Noise: add normal noise to chosen coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import checks, params, seeds
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, OneShot
from excise.train.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Noise(OneShot):
    """theta <- theta + sigma * z, z ~ N(0, 1) for each weight in the mask, biases and normalisation included.

    z is drawn for each whole parameter from its name and the run's seed: the mask says where it is added and does not
    change it. Two in one sequence therefore add the same z, unless their `draw` differs.

    Reads no rows. Outside the mask nothing moves, buffers nowhere. Cost: none over the data. Memory: one copy of the
    parameters that the mask touches. No guarantee follows: for a certificate the noise would have to be set against a bound
    on what the rows can have changed.

    References:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari, Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning", 2024 (CFW
        adds 0.6 to convolutions before it finetunes and 0.005 after it; RNI injects noise, too).

    Args:
        sigma: standard deviation of what is added, at least 0; 0 changes nothing.
        relative: sigma is a share of the parameter's own standard deviation, over all its weights, in the mask or not, the
            mean of squares not corrected. One weight alone, or weights all alike, deviate by 0 and are given no noise.
        draw: which of several independent draws, from 1.
    """

    sigma: float
    relative: bool = False
    draw: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        checks.require_finite("sigma", self.sigma)
        checks.require_positive_int("draw", self.draw)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    @torch.no_grad()
    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give the noisy weights."""
        edited = {}
        for name, value in params.named_parameters(model).items():
            if not mask.count(name):
                continue
            scale = self.sigma * (float(value.std(correction=0)) if self.relative else 1.0)
            if scale > 0:  # -0.0 + 0 would be another zero
                edited[name] = value + scale * normal_like(
                    value, seeds.generator(engine.seed, "noise", self.draw, name)
                )
        return edited


def normal_like(value: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a standard normal for each weight of a parameter, on its device, in single precision or better.

    Drawn on the CPU, so that every device gets the same numbers.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    return torch.randn(value.shape, generator=generator, dtype=dtype).to(value.device)
