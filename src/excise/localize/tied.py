"""Tied channels: where a network trained with example-tied dropout keeps what it learnt of single rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from excise import errors, params
from excise.data.split import Split
from excise.localize.base import Region
from excise.masks import Mask
from excise.networks.tied_dropout import ExampleTiedDropout
from excise.train.engine import Engine


@dataclass(frozen=True, kw_only=True)
class TiedChannels(Region):
    """The gates of the channels tied to the forget rows, in every `networks.ExampleTiedDropout` of a network.

    To be written 0 by `methods.SwitchOff`. Reads no row and costs no pass: which channels are tied to a row follows from its
    id, by the split's ids. The split must therefore be of the very data that `data.with_ids` gave for training, and not
    of a subset of them, whose ids count anew. Memory: one boolean a forget row and channel (or training row).

    With m forget rows a tied channel is chosen with probability 1 - (1 - p)^m, p the module's `tied_fraction`: of 10 rows at
    p = 0.1 it is two channels in three, and what other rows keep there goes with it. `shared=False` spares those rows, and
    among many retain rows finds nothing: a channel of a forget row is free of n others with probability (1 - p)^n.

    References:
        Maini et al., "Can Neural Network Memorization Be Localized?", ICML 2023, which switches off all tied channels.

    Args:
        shared: choose the channels tied to at least one forget row; with False, of those only the ones tied to no retain row.

    Raises:
        errors.UnsupportedModel: (when called) the network has no such module.
    """

    shared: bool = True

    def __str__(self) -> str:
        return "the channels tied to the forget rows" + ("" if self.shared else " alone")

    @property
    def reads_forget(self) -> bool:
        """No: their ids are enough."""
        return False

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the mask of the gates' entries."""
        modules = [module for module in model.modules() if isinstance(module, ExampleTiedDropout)]
        if not modules:
            raise errors.UnsupportedModel(
                f"{type(model).__name__} has no ExampleTiedDropout, so that no channel is tied to a row; "
                "train a network with excise.networks.ExampleTiedDropout between its layers"
            )
        own = params.named_parameters(model)
        name_of = {id(value): name for name, value in own.items()}
        entries = {name: torch.zeros((1,) * value.ndim, dtype=torch.bool) for name, value in own.items()}
        for module in modules:
            on = module.tied(split.forget.ids).any(0)
            if not self.shared:
                split.require_retain("TiedChannels(shared=False), the ids alone,")
                on &= ~module.tied(split.retain.ids).any(0)
            entries[name_of[id(module.gate)]] = on
        return Mask(entries, {name: tuple(value.shape) for name, value in own.items()})
