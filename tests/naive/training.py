"""Training spelled out: full-size optimizer, gradients multiplied by the mask, frozen coordinates written back each step."""

import math

import torch
from torch.nn import functional

MAKE = {
    "sgd": lambda tensors, lr, decay: torch.optim.SGD(tensors, lr=lr, momentum=0.9, weight_decay=decay, foreach=False),
    "adam": lambda tensors, lr, decay: torch.optim.Adam(tensors, lr=lr, weight_decay=decay, foreach=False),
    "adamw": lambda tensors, lr, decay: torch.optim.AdamW(tensors, lr=lr, weight_decay=decay, foreach=False),
}


def cosine(lr, epoch, epochs, floor=0.01):
    return lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * epoch / epochs)))


def naive_fit_(
    model,
    inputs,
    labels,
    mask,
    *,
    batches,
    epochs,
    lr,
    optimizer="sgd",
    decay=0.0,
    clip=None,
    sign=1.0,
    pull=0.0,
    rest=(),
):
    """Train on the same batches of ids each epoch, cosine per epoch, in place.

    `mask` is full-size booleans by name, or None; `pull` adds pull * |theta - 1|^2; the modules named in `rest` run in eval.
    """
    named = dict(model.named_parameters())
    model.train()
    for name in rest:
        model.get_submodule(name).eval()
    chosen = MAKE[optimizer](list(named.values()), lr, decay)
    for epoch in range(epochs):
        for group in chosen.param_groups:
            group["lr"] = cosine(lr, epoch, epochs)
        for batch in batches:
            chosen.zero_grad()
            loss = sign * functional.cross_entropy(model(inputs[batch]), labels[batch])
            (loss + pull * sum((value - 1).pow(2).sum() for value in named.values())).backward()
            masked_step_(named, mask, chosen, clip)
    model.zero_grad()


@torch.no_grad()
def masked_step_(named, mask, optimizer, clip):
    """Mask the gradients, clip their norm by hand, step, and put every frozen coordinate back."""
    before = {name: value.clone() for name, value in named.items()}
    if mask is not None:
        for name, value in named.items():
            if value.grad is not None:
                value.grad = torch.where(mask[name], value.grad, 0.0)
    if clip is not None:
        norm = math.sqrt(sum(float(value.grad.pow(2).sum()) for value in named.values() if value.grad is not None))
        for value in named.values():
            if value.grad is not None:
                value.grad.mul_(min(1.0, clip / (norm + 1e-6)))
    optimizer.step()
    if mask is not None:
        for name, value in named.items():
            value.copy_(torch.where(mask[name], value, before[name]))
