"""Batch normalisation over the rows of all processes, differentiable, on every kind of device.

A layer that normalises by its own batch would see a part of it in each process. Inside the block every such layer takes
mean and variance over all of them: each process sends the number, the mean and the squared deviations of its values (one
gather forward), and the two sums that the gradient needs (one sum backward). Running statistics move as in one process,
to the same bits everywhere. `torch.nn.SyncBatchNorm` does the same sums and refuses the CPU.

References:
    Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979 (the merge);
    Ioffe, Szegedy, "Batch Normalization", 2015, section 3 (the gradient).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from excise import errors
from excise.distributed.processes import Processes


class JointStatistics:
    """What layers of batch normalisation ask while they run.

    Attributes:
        processes: whose rows are normalised together.
        idle: this process runs a row that is not its own, only to keep step with the others; its values do not count.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.idle = False

    @contextmanager
    def standing_in(self, *, idle: bool) -> Iterator[None]:
        """Say for the block whether what runs counts."""
        before, self.idle = self.idle, idle
        try:
            yield
        finally:
            self.idle = before


@contextmanager
def normalised_together(model: nn.Module, processes: Processes) -> Iterator[JointStatistics]:
    """Have batch normalisation take its statistics over all processes for the block.

    Raises:
        errors.UnsupportedModel: a layer that trains has statistics of its batch and a forward pass of its own, or is an
            instance normalisation with running statistics, by name.
    """
    joint = JointStatistics(processes)
    kept: list[tuple[nn.Module, object]] = []
    try:
        for name, layer in model.named_modules() if processes.several else ():
            _require_known(name, layer)
            if isinstance(layer, _BatchNorm):
                kept.append((layer, vars(layer).get("forward", _ABSENT)))
                vars(layer)["forward"] = _Joint(layer, joint)
        yield joint
    finally:
        for layer, before in kept:
            del vars(layer)["forward"]
            if before is not _ABSENT:
                vars(layer)["forward"] = before


_ABSENT = object()


def _require_known(name: str, layer: nn.Module) -> None:
    known = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    own = isinstance(layer, _BatchNorm) and type(layer).forward not in known
    moving = isinstance(layer, _InstanceNorm) and layer.track_running_stats
    if layer.training and (own or moving):
        raise errors.UnsupportedModel(
            f"{name!r} is a {type(layer).__name__}, whose statistics of a batch cannot be taken over several processes; "
            "train with one process, or hold its statistics (buffers hold)"
        )


@dataclass(frozen=True, eq=False)
class _Joint:
    """The forward pass of one layer; copied with the layer."""

    layer: _BatchNorm
    joint: JointStatistics

    def __call__(self, inputs: Tensor) -> Tensor:
        layer = self.layer
        if not layer.training and layer.running_mean is not None and layer.running_var is not None:
            return type(layer).forward(layer, inputs)
        layer._check_input_dim(inputs)  # type: ignore[no-untyped-call]
        outputs, mean, variance, count = _Normalise.apply(  # type: ignore[no-untyped-call]
            inputs, layer.weight, layer.bias, layer.eps, self.joint
        )
        if layer.training and layer.track_running_stats:
            _move_(layer, mean, variance, count)
        return outputs  # type: ignore[no-any-return]


@torch.no_grad()
def _move_(layer: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move running statistics as torch does, with the variance over `count` - 1."""
    assert layer.num_batches_tracked is not None
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.num_batches_tracked.add_(1)
    pace = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean), pace)
    layer.running_var.lerp_((variance * (count / (count - 1))).to(layer.running_var), pace)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        joint: JointStatistics,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        values = wide[:0] if joint.idle else wide
        mean, variance, count = _joined(values, axes, joint.processes)
        if values.numel() < 2 * values.shape[1] and float(count) < 2:  # asked only where it may be: it waits
            raise ValueError(f"expected more than 1 value per channel when training, got input size {inputs.shape}")
        spread = (variance + eps).rsqrt()
        hat = (wide - _spread(mean, wide)) * _spread(spread, wide)
        outputs = hat if weight is None else hat * _spread(weight, wide)
        outputs = outputs if bias is None else outputs + _spread(bias, wide)
        ctx.save_for_backward(inputs, weight, mean, spread, count)
        ctx.axes, ctx.idle, ctx.has_bias = axes, joint.idle, bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return outputs.to(inputs.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, spread, count = ctx.saved_tensors
        slope = gradients[0].to(mean.dtype)
        hat = (inputs.to(mean.dtype) - _spread(mean, inputs)) * _spread(spread, inputs)
        for_bias, for_weight = slope.sum(ctx.axes), (slope * hat).sum(ctx.axes)
        found = None
        if ctx.needs_input_grad[0]:
            scale = spread if weight is None else spread * weight
            sums = torch.stack([for_bias, for_weight])  # of an idle process zeros: nothing of it reaches the loss
            distributed.all_reduce(sums)
            means = sums / count
            through = 0 if ctx.idle else _spread(means[0], slope) + hat * _spread(means[1], slope)
            found = ((slope - through) * _spread(scale, slope)).to(inputs.dtype)
        of_weight = None if weight is None else for_weight.to(weight.dtype)
        of_bias = for_bias.to(weight.dtype if weight is not None else slope.dtype) if ctx.has_bias else None
        return found, of_weight, of_bias, None, None


def _joined(values: Tensor, axes: list[int], processes: Processes) -> tuple[Tensor, Tensor, Tensor]:
    """Give mean and variance `[channels]` of the values of all processes, and their number a channel."""
    own = values.new_full((values.shape[1],), values.numel() // values.shape[1])
    mean = values.sum(axes) / own.clamp(min=1)
    squares = (values - _spread(mean, values)).square().sum(axes)
    counts, means, deviations = processes.gathered(torch.stack([own, mean, squares])).unbind(1)
    count = counts.sum(0)
    whole = (counts * means).sum(0) / count
    variance = (deviations + counts * (means - whole).square()).sum(0) / count
    return whole, variance, count[0]


def _spread(of_channels: Tensor, values: Tensor) -> Tensor:
    return of_channels.reshape(1, -1, *(1,) * (values.ndim - 2))
