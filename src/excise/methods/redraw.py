"""Redraw: replace chosen weights by new random ones of the size that training usually starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from excise import params, seeds
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, OneShot
from excise.methods.noise import normal_like
from excise.train.engine import Engine


@dataclass(frozen=True)
class Redraw(OneShot):
    """theta <- sqrt(2 / fan_out) * z, z ~ N(0, 1), for each weight in the mask; parameters of one axis keep their values.

    fan_out is what `torch.nn.init` takes it for: the length of the first axis times the size of the kernel. That is the paper's
    for linear layers and plain convolutions. For a grouped convolution it counts the output channels of all groups, where
    an input reaches only its own group's; for a transposed one the first axis is the inputs.

    Whatever the network was built with plays no part: `Reset` gives that. z is drawn for each whole parameter from its name
    and the run's seed: the mask says where it is written and does not change it.

    Reads no rows. Outside the mask nothing moves, buffers nowhere. Cost: none over the data. Memory: one copy of the
    parameters that the mask touches. MSG redraws, in each convolution, the share of weights with the smallest gradient
    difference, and finetunes; there the mask does the choosing.

    References:
        He, Zhang, Ren, Sun, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet
        Classification", ICCV 2015, eq. 14.
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari, Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning", 2024 (MSG).
    """

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give the new weights."""
        return {
            name: math.sqrt(2 / fan_out(value)) * normal_like(value, seeds.generator(engine.seed, "redraw", name))
            for name, value in params.named_parameters(model).items()
            if value.ndim > 1 and mask.count(name)
        }


def fan_out(value: Tensor) -> int:
    """Give the length of the first axis times the size of the kernel, which all axes after the second are.

    >>> import torch
    >>> fan_out(torch.zeros(6, 1, 3, 3)), fan_out(torch.zeros(5, 7))
    (54, 5)
    """
    return value.shape[0] * math.prod(value.shape[2:])
