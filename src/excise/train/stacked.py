"""`Stacked`: networks of one architecture as one, every weight and buffer with a leading axis of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from excise import errors, params
from excise.train.machine import Way
from excise.train.running import PLAIN, outputs
from excise.train.stacked_operations import StackedOperations
from excise.train.statistics import running_statistics_used
from excise.train.task import Task, device_of


class _MeanLoss(nn.Module):
    """The mean loss of a batch as a module, so that the network inside can be called with other weights."""

    def __init__(self, model: nn.Module, task: Task, way: Way) -> None:
        super().__init__()
        self.model = model
        self._task, self._way = task, way

    def forward(self, content: Any, num_rows: int) -> Tensor:
        return self._task.losses_of(*outputs(self._task, self.model, content, self._way), num_rows).mean()


class Stacked:
    """Networks of one architecture as one. Holds copies: the networks themselves change in `write_` alone.

    Args:
        models: the networks.
        task: forward and loss.
        way: in which precision they run; the layout is this class's own.

    Attributes:
        leaves: `[models, ...]` by name, what is trained: the parameters that ask for a gradient.
        buffers: `[models, ...]` by name.

    Raises:
        errors.BadRequest: networks that differ in more than values.
    """

    def __init__(self, models: Sequence[nn.Module], task: Task, way: Way = PLAIN) -> None:
        _require_alike(models)
        self._models = models
        # grouped convolutions and normalisations over many networks take half the time when channels lie last; pooling loses
        self._channels_last = any(isinstance(module, nn.BatchNorm2d) for module in models[0].modules())
        code = params.clone_model(models[0])
        code.train()
        self._code = _MeanLoss(code, task, replace(way, channels_last=False))
        every = [dict(model.named_parameters()) for model in models]
        first = every[0]
        self.leaves = {name: _stack(every, name).requires_grad_() for name in first if first[name].requires_grad}
        self._fixed = {name: _stack(every, name) for name in first if not first[name].requires_grad}
        states = [dict(model.named_buffers()) for model in models]
        self.buffers = {name: _stack(states, name) for name in states[0]}
        self.device = device_of(models[0])

    def __len__(self) -> int:
        return len(self._models)

    def mean_losses(self, content: Any, num_rows: int) -> Tensor:
        """Give the mean loss of each network on its own batch, `[models]`; running statistics move as in training.

        Args:
            content: what a batch holds, every tensor `[models, num_rows, ...]`.
            num_rows: of each network's batch. One row is normalised by the running statistics, as the loop has it.
        """
        named = {f"model.{name}": value for name, value in {**self.leaves, **self._fixed, **self.buffers}.items()}
        alone = running_statistics_used(self._code) if num_rows == 1 else nullcontext()

        if self._channels_last:
            content = tree_map(_channels_last, content)

        def mean_loss(values: dict[str, Tensor], own: Any) -> Tensor:
            loss: Tensor = functional_call(self._code, values, (own, num_rows))
            return loss

        with alone, sdpa_kernel(SDPBackend.MATH), StackedOperations():  # the other kernels of attention take no stacks
            return vmap(mean_loss, randomness="error")(named, content)

    @torch.no_grad()
    def clip_(self, norm: float) -> None:
        """Scale each network's gradient down to `norm` where it is longer, as `torch.nn.utils.clip_grad_norm_` does."""
        gradients = [leaf.grad for leaf in self.leaves.values() if leaf.grad is not None]
        by_leaf = [gradient.reshape(len(self), -1).norm(dim=1) for gradient in gradients]
        factor = (norm / (torch.stack(by_leaf).norm(dim=0) + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.to(gradient.dtype).view(-1, *[1] * (gradient.ndim - 1)))

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """Copy everything that training moves."""
        return params.snapshot({**self.leaves, **self.buffers})

    @torch.no_grad()
    def restore_(self, values: Mapping[str, Tensor]) -> None:
        """Write copied values back, in place."""
        for name, value in {**self.leaves, **self.buffers}.items():
            value.copy_(values[name])

    @torch.no_grad()
    def write_(self) -> None:
        """Write each network's values into the network itself, in place."""
        for index, model in enumerate(self._models):
            own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            for name, value in {**self.leaves, **self.buffers}.items():
                own[name].copy_(value[index])


def _channels_last(value: Tensor) -> Tensor:
    """Lay images `[models, batch, channels, rows, columns]` out as batch, rows, columns, models, channels."""
    if value.ndim != 5 or not value.is_floating_point():
        return value
    return value.permute(1, 3, 4, 0, 2).contiguous().permute(3, 0, 4, 1, 2)


@torch.no_grad()
def _stack(every: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    return torch.stack([some[name].detach() for some in every])


def _require_alike(models: Sequence[nn.Module]) -> None:
    expected = _form(models[0])
    for number, model in enumerate(models[1:], 2):
        if _form(model) != expected:
            raise errors.BadRequest(
                f"networks that are trained together must differ in values only; network {number} has other modules, names, "
                "shapes, types, devices or requires_grad than the first; train it by itself"
            )


def _form(model: nn.Module) -> tuple[object, ...]:
    modules = [(name, type(module), module.extra_repr()) for name, module in model.named_modules()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return modules, [(name, value.shape, value.dtype, value.device, value.requires_grad) for name, value in tensors]
