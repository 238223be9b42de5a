"""Transpose: swap the two spatial axes of convolution kernels, a jolt that keeps their norm."""

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
class Transpose(OneShot):
    """Swap height and width of every square kernel of a two-dimensional convolution: W[o, i, y, x] <- W[o, i, x, y].

    Where the mask holds whole rows (or whole kernels), doing it twice changes nothing, and every kernel keeps its norm. Under
    a mask of single weights each weight in the mask takes the value that its mirror image had, whether that one may change
    or not; neither holds then.

    Left as they are: kernels that are not square, those of one pixel (which are their own mirror images), convolutions of one
    or three dimensions, transposed ones, kernels that a parametrization computes, biases, and all other layers. On a network
    without such a kernel it changes nothing at all: an MLP; of most vision transformers only the patch embedding has one.

    Reads no rows. Buffers stay. Cost: none over the data. Meant to be followed by `Finetune`, as in the competition's
    entry, which transposes every kernel and finetunes everything.

    References:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari, Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning", 2024
        (CT, there from the NeurIPS 2023 Machine Unlearning Challenge).
    """

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give the mirrored kernels."""
        layers = (module for module in model.modules() if isinstance(module, nn.Conv2d))
        kernels = {id(dict(layer.named_parameters(recurse=False)).get("weight")) for layer in layers}
        return {
            name: value.detach().transpose(2, 3).clone()  # written over what it views
            for name, value in params.named_parameters(model).items()
            if id(value) in kernels and value.shape[2] == value.shape[3] > 1
        }
