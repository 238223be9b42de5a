"""Faster operations for networks that run as one under `vmap`: the same numbers, where torch's own rules are slow.

With batched weights an affine normalisation is one kernel here rather than four, the log-softmax of rows of ten, which takes
torch as long as a layer, goes by columns, and the mean of an image needs no loop over networks. What is not in the table
below is left to torch: a twin costs a fraction of a millisecond a call, which linear layers and convolutions do not earn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class StackedOperations(TorchFunctionMode):
    """Have the functions of the table run on stacked tensors; only sensible inside `torch.func.vmap` over networks."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the faster twin of a function if there is one for these arguments, else the function."""
        faster = _FASTER.get(function)
        found = NotImplemented if faster is None else faster(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {})) if found is NotImplemented else found


class _OnStack(torch.autograd.Function):
    """Run `stacked` on tensors with a leading axis of networks, where `alone` would run on those of one network.

    Gradients are those of the operations that `stacked` consists of, since autograd runs below `vmap`.
    """

    @staticmethod
    def forward(alone: Callable[..., Tensor], stacked: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        return alone(*tensors)  # nothing here belongs to a network: a constant of the code, which has no gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        return None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], alone: Any, stacked: Any, *tensors: Tensor | None
    ) -> tuple[Tensor, int]:
        count = info.batch_size
        whole = [
            value if value is None else value.expand(count, *value.shape) if place is None else value.movedim(place, 0)
            for value, place in zip(tensors, in_dims[2:], strict=True)
        ]
        return stacked(*whole), 0


def _channels(images: Tensor) -> Tensor:
    """Turn `[models, batch, channels, ...]` into `[batch, models * channels, ...]`, without a copy where channels lie last."""
    return images.movedim(0, 1).flatten(1, 2)


def _models(flat: Tensor, count: int) -> Tensor:
    """Undo `_channels`."""
    return flat.reshape(len(flat), count, -1, *flat.shape[2:]).movedim(1, 0)


def _flat(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.flatten(0, 1)


def _batch_norm(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002 - torch's own signature
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    def alone(values: Tensor, mean: Any, var: Any, weight: Any, bias: Any) -> Tensor:
        return F.batch_norm(values, mean, var, weight, bias, training, momentum, eps)

    def stacked(values: Tensor, mean: Any, var: Any, weight: Any, bias: Any) -> Tensor:
        statistics = (_flat(mean), _flat(var))  # views, so that what moves are the networks' own
        found = F.batch_norm(_channels(values), *statistics, _flat(weight), _flat(bias), training, momentum, eps)
        return _models(found, len(values))

    return _OnStack.apply(alone, stacked, values, running_mean, running_var, weight, bias)  # type: ignore[no-untyped-call]


def _group_norm(
    values: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    """Normalise the groups of all networks as groups of one; torch's rule asks for a layout that `vmap` cannot tell."""

    def alone(values: Tensor, weight: Any, bias: Any) -> Tensor:
        return F.group_norm(values, num_groups, weight, bias, eps)

    def stacked(values: Tensor, weight: Any, bias: Any) -> Tensor:
        flat = _channels(values).contiguous()
        return _models(F.group_norm(flat, num_groups * len(values), _flat(weight), _flat(bias), eps), len(values))

    return _OnStack.apply(alone, stacked, values, weight, bias)  # type: ignore[no-untyped-call]


def _adaptive_avg_pool2d(images: Tensor, output_size: Any) -> Any:
    """Give the mean over the image; torch's own kernel has no rule for stacks there."""
    return images.mean((-2, -1), keepdim=True) if output_size in (1, (1, 1), [1, 1]) else NotImplemented


def _cross_entropy(logits: Tensor, targets: Tensor, *others: Any, **options: Any) -> Any:
    """Give log(sum(exp(z))) - z[target], z moved by its largest entry, a row."""
    plain = options.pop("reduction", "mean") == "none" and options.pop("label_smoothing", 0.0) == 0.0
    ignored = options.pop("ignore_index", -100)
    unusual = bool(others) or any(value is not None for value in options.values())
    if not plain or unusual or logits.ndim != 2 or targets.ndim != 1 or targets.is_floating_point():
        return NotImplemented
    moved = logits - logits.detach().amax(1, keepdim=True)
    kept = targets != ignored
    own = moved.gather(1, torch.where(kept, targets, 0).unsqueeze(1)).squeeze(1)
    return torch.where(kept, moved.exp().sum(1).log() - own, 0.0)


_FASTER: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.cross_entropy: _cross_entropy,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
}
