"""Gaussian canaries: noise planted in training rows, and how far a network's gradient points along it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from excise import errors, params
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.train.engine import Engine
from excise.train.task import device_of


def plant(inputs: Tensor, generator: torch.Generator, *, scale: float) -> tuple[Tensor, Tensor]:
    """Give inputs with Gaussian noise added, to train on, and the noise, to keep secret for the audit.

    Nothing is clipped to the range of the inputs: what is cut off is no Gaussian noise any more, and the null no null. A
    transform that moves pixels (a crop, a flip) takes the noise elsewhere; leave it out for these rows.

    Args:
        inputs: floating `[canaries, ...]`, as the network takes them, normalised if it wants them so.
        generator: draws; its seed alone gives the noise away.
        scale: standard deviation of the noise, in units of the inputs.

    Returns:
        Noisy inputs and noise, both of the shape and type of `inputs`.

    Raises:
        errors.BadRequest: inputs that are not floating, or a scale that is not positive.
    """
    _require_scale(scale)
    if not inputs.is_floating_point():
        raise errors.BadRequest(
            f"canaries: expected floating inputs to add noise to, found {inputs.dtype}; "
            "plant after the inputs are made numbers, or choose an audit that leaves tokens alone"
        )
    noise = scale * torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    return inputs + noise.to(inputs.device), noise


def projections(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    noise: Tensor,
    engine: Engine,
    *,
    scale: float,
    batch_size: int = 512,
) -> np.ndarray:
    """Give <g, noise> / (scale |g|) of each canary, where g is the gradient of its loss by its input, without the noise.

    A standard normal number if the noise had no part in the network; far from 0 on average if the network was trained on
    it. In eval mode, so that each row's loss depends on that row alone and one backward pass over their sum gives every
    gradient. 0 where the gradient is 0 or not finite, since then it points nowhere.

    The network is left as it was: a shadow of it is run. Cost: one forward and one backward pass over the canaries.

    References:
        Pawelczyk et al., "Machine Unlearning Fails to Remove Data Poisoning Attacks", ICLR 2025, section 4,
        https://arxiv.org/abs/2406.17216.

    Args:
        model: the network under test.
        inputs: floating `[canaries, ...]`, before the noise.
        targets: `[canaries, ...]`.
        noise: of the shape of `inputs`; with a dimension of draws before it, `[draws, canaries, ...]`, for many at once.
        engine: its task takes `(inputs, targets)`; counts the cost.
        scale: as planted.
        batch_size: rows a pass.

    Returns:
        float64 `[canaries]`, or `[draws, canaries]`.

    Raises:
        errors.BadRequest: noise of another shape, inputs that are not floating, or a scale that is not positive.

    >>> from excise.masks import Mask
    >>> from excise.train.task import Task
    >>> model = nn.Linear(2, 2)
    >>> model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> noise = torch.tensor([[0.5, 9.0]])
    >>> engine = Engine(Task(), seed=0, besides=Mask.empty(model))
    >>> projections(model, torch.zeros(1, 2), torch.tensor([1]), noise, engine, scale=0.5).tolist()
    [1.0]
    """
    _require_scale(scale)
    if not inputs.is_floating_point() or noise.shape[-inputs.ndim :] != inputs.shape or noise.ndim > inputs.ndim + 1:
        raise errors.BadRequest(
            f"canaries: expected floating inputs and noise of the same shape, or [draws, *shape], found {inputs.dtype} "
            f"{list(inputs.shape)} and {list(noise.shape)}"
        )
    directions = _directions(model, inputs, targets, engine, batch_size)
    planted = noise.detach().to("cpu", torch.float64).reshape(*noise.shape[: noise.ndim - inputs.ndim + 1], -1)
    return np.asarray((planted * directions).sum(-1).div(scale).numpy())


@torch.enable_grad()
def _directions(model: nn.Module, inputs: Tensor, targets: Tensor, engine: Engine, batch_size: int) -> Tensor:
    """Give the unit gradients of the rows' losses by their inputs, float64 `[canaries, features]`; 0 where there is none."""
    shadow, found = params.shadow_of(model), []
    for batch in batches(Rows.all_of((inputs, targets)), batch_size, device_of(shadow)):
        leaf, *others = batch.content
        leaf = leaf.detach().clone().requires_grad_()
        logits, wanted = engine.task.forward(shadow, (leaf, *others))
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        losses = engine.task.losses_of(logits, wanted, len(batch))
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        found.append(gradient.cpu().double().flatten(1))
        engine.cost.count(trained=len(batch))
    gradients = torch.cat(found)
    largest = gradients.abs().amax(1, keepdim=True)  # first, since the square of a tiny gradient may be 0
    gradients = torch.where((largest > 0) & largest.isfinite(), gradients / largest, 0.0)
    return nn.functional.normalize(gradients, dim=1)


def _require_scale(scale: float) -> None:
    if not (math.isfinite(scale) and scale > 0):
        raise errors.BadRequest(f"scale: expected the noise's standard deviation, above 0, found {scale}")
