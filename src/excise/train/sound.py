"""What a run holds from one step to the next, and the last state of it in which everything was finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from excise import errors, params
from excise.train.masked import MaskedParameters


class NetworkState:
    """The chosen coordinates of a network and its buffers, as they are."""

    def __init__(self, model: nn.Module, free: MaskedParameters) -> None:
        self._model, self._free = model, free

    def remembered(self) -> dict[str, Tensor]:
        """Give the chosen coordinates and the buffers."""
        leaves = {f"value/{place}": leaf for place, leaf in enumerate(self._free.leaves)}
        return leaves | {f"buffer/{name}": buffer for name, buffer in self._model.named_buffers()}

    @torch.no_grad()
    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        """Write them back."""
        self._free.restore_([tensors[f"value/{place}"] for place in range(len(self._free.leaves))])
        for name, buffer in self._model.named_buffers():
            buffer.copy_(tensors[f"buffer/{name}"])


class OptimizerState:
    """The state of torch's optimizer; its settings follow from the plan."""

    def __init__(self, optimizer: torch.optim.Optimizer | None) -> None:
        self._optimizer = optimizer

    def remembered(self) -> dict[str, Tensor]:
        """Give the state of each leaf, by place and name."""
        state = {} if self._optimizer is None else self._optimizer.state_dict()["state"]
        each = ((f"{place}/{name}", value) for place, own in state.items() for name, value in own.items())
        return {name: value for name, value in each if value is not None}

    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what was kept."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            place, _, name = key.partition("/")
            state.setdefault(int(place), {})[name] = value.clone()
        if self._optimizer is not None:
            leaves = self._optimizer.param_groups[0]["params"]
            state = {number: _laid_out_as(leaves[number], own) for number, own in state.items()}
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})


def _laid_out_as(leaf: Tensor, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give an optimizer's tensors of a leaf in the leaf's own layout, in which it had made them."""
    return {
        name: value
        if value.shape != leaf.shape
        else torch.empty_like(leaf, dtype=value.dtype, device="cpu").copy_(value)
        for name, value in own.items()
    }


class Sound:
    """The last state in which everything was finite: the chosen coordinates and the buffers."""

    def __init__(self, model: nn.Module, free: MaskedParameters, stage: str) -> None:
        self._model, self._free, self._stage = model, free, stage
        self._values, self._buffers = free.values(), params.snapshot(dict(model.named_buffers()))

    def remembered(self) -> dict[str, Tensor]:
        """Give the last sound values."""
        values = {f"value/{place}": value for place, value in enumerate(self._values)}
        return values | {f"buffer/{name}": buffer for name, buffer in self._buffers.items()}

    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what was sound; where nothing is said of it, the network as it is."""
        if not tensors:
            self._take()
            return
        for place, kept in enumerate(self._values):
            kept.copy_(tensors[f"value/{place}"])
        for name, kept in self._buffers.items():
            kept.copy_(tensors[f"buffer/{name}"])

    def keep(self, epoch: int) -> None:
        """Take over the state at the end of an epoch.

        Raises:
            errors.Diverged: it is not finite.
        """
        if not self._free.finite():
            self._stop(f"{self._stage}: a weight stopped being finite in epoch {epoch + 1}")
        buffers = dict(self._model.named_buffers())  # one may be built of infinities
        broken = [(self._buffers[name].isfinite() & ~buffer.isfinite()).any() for name, buffer in buffers.items()]
        if broken and bool(torch.stack([one.to(broken[0].device) for one in broken]).any()):  # one look
            name = next(name for name, one in zip(buffers, broken, strict=True) if bool(one))
            self._stop(f"{self._stage}: buffer {name!r} stopped being finite in epoch {epoch + 1}")
        self._take()

    def _take(self) -> None:
        for kept, value in zip(self._values, self._free.leaves, strict=True):
            kept.copy_(value.detach())
        for name, buffer in self._model.named_buffers():
            self._buffers[name].copy_(buffer)

    def require_finite(self, loss: Tensor, epoch: int) -> float:
        """Give the value of a loss.

        Raises:
            errors.Diverged: it is not finite.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            self._stop(f"{self._stage}: the loss became {value} in epoch {epoch + 1}")
        return value

    def _stop(self, what: str) -> None:
        self._free.restore_(self._values)
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                buffer.copy_(self._buffers[name])
        raise errors.Diverged(
            f"{what}; the state after the last sound epoch is kept; try a smaller learning rate, or fewer steps",
            params.state_of(self._model),
        )
