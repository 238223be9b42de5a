"""Rewind: put chosen coordinates back to what they were at an earlier point of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import errors, params
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Method, Need
from excise.train.engine import Engine
from excise.train.masked import effective, held_modules, write_


@dataclass(frozen=True, kw_only=True, eq=False)
class Rewind(Method):
    """Write an earlier checkpoint of the same network into the mask: theta <- theta * (1 - m) + theta_e * m.

    Buffers go back, too, where they may move: those of modules with a parameter in the mask, and of modules without
    parameters unless the mask is empty (the rule `follow-mask`, as for `Retrain`). With the full mask the network is the
    checkpoint. `Reset` is the same with untrained values and leaves the buffers.

    Reads no rows. Outside the mask nothing moves. Cost: none over the data. Memory: one copy of the network.

    A checkpoint from before the forget rows were first seen holds nothing of them; a later one does, in its running
    statistics as well.

    Args:
        to: the checkpoint, a state dict; it is left alone. One saved from a wrapped network (a prefix before every name)
            fits, too.

    Raises:
        errors.BadRequest: no state dict.
        errors.MaskMismatch: missing, unexpected or differently shaped entries, all of them listed; nothing is written then.
        errors.BadData: values that are not finite where the network's own are; nothing is written then.
    """

    to: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        """Check that it is a state dict."""
        wanted = "to: expected a state dict, tensors by name, such as model.state_dict() gives; found"
        if not isinstance(self.to, Mapping):
            raise errors.BadRequest(f"{wanted} {type(self.to).__name__}")
        others = [name for name, value in self.to.items() if not isinstance(value, Tensor)]
        if others or not self.to:
            what = f"{type(self.to[others[0]]).__name__} under {others[0]!r}" if others else "nothing in it"
            raise errors.BadRequest(f"{wanted} {what}")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a checkpoint that does not fit."""
        self._earlier(params.unwrapped(model))

    def _earlier(self, model: nn.Module) -> nn.Module:
        """Give a copy of the network that holds the checkpoint."""
        earlier = params.clone_model(model)
        params.load_strictly_(earlier, self.to, "the checkpoint to rewind to")
        return earlier

    @torch.no_grad()
    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Write the checkpoint inside the mask, in place."""
        model = params.unwrapped(model)
        earlier = self._earlier(model)
        write_(model, params.named_parameters(earlier), mask)
        held = set(held_modules(model, effective(mask, model), self.statistics))
        theirs = params.named_buffers(earlier)
        for name, buffer in params.named_buffers(model).items():
            if name.rpartition(".")[0] not in held:
                buffer.copy_(theirs[name])
