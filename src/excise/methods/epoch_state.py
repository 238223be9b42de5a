"""`EpochState`: what an epoch left of a network, kept in main memory so that it can be put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import params
from excise.masks import Mask
from excise.train.masked import write_


@dataclass(frozen=True, eq=False)
class EpochState:
    """A network after an epoch: the mask's coordinates, flat by parameter, and all buffers, copied to the CPU.

    Attributes:
        epoch: counted from 0.
        values: `[weights inside the mask]` by parameter; parameters without any are left out.
        buffers: by name.
    """

    epoch: int
    values: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, mask: Mask, epoch: int) -> EpochState:
        """Copy what a network is now."""
        values = {
            name: value.detach()[mask.expand(name).to(value.device)].cpu()
            for name, value in params.named_parameters(model).items()
            if mask.count(name)
        }
        buffers = {name: buffer.detach().to("cpu", copy=True) for name, buffer in model.named_buffers()}
        return cls(epoch, values, buffers)

    def tensors(self) -> dict[str, Tensor]:
        """Give all of it by name, for a checkpoint."""
        values = {f"value/{name}": value for name, value in self.values.items()}
        buffers = {f"buffer/{name}": buffer for name, buffer in self.buffers.items()}
        return {"epoch": torch.tensor(self.epoch), **values, **buffers}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> EpochState:
        """Take back what `tensors` gave."""
        values, buffers = (
            {key.removeprefix(kind): value for key, value in tensors.items() if key.startswith(kind)}
            for kind in ("value/", "buffer/")
        )
        return cls(int(tensors["epoch"]), values, buffers)

    @torch.no_grad()
    def put_back_(self, model: nn.Module, mask: Mask) -> None:
        """Write the epoch's state into the network, in place, inside the mask."""
        own = params.named_parameters(model)
        for name, values in self.values.items():
            full = own[name].detach().clone()
            full[mask.expand(name).to(full.device)] = values.to(full.device)
            write_(model, {name: full}, mask)
        for name, buffer in model.named_buffers():
            buffer.copy_(self.buffers[name])
