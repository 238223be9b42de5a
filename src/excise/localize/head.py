"""The head of a network: its last module with weights, in the order in which modules begin to run."""

from __future__ import annotations

import torch
from torch import nn

from excise import errors, params
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train.task import Task, device_of


def head_mask(model: nn.Module, rows: Rows, task: Task) -> Mask:
    """Give the mask of the classifier head: all weights of the last module with weights of its own that a forward pass enters.

    Found by running one row, never by a name. (The published DEL code takes every parameter with `fc` or `mlp_head` in
    its name.) If the head's weight is tied to another layer's, that layer moves too. A network that holds weights itself
    beside its modules (a position embedding at the root) is entered first and left last: entering is what counts.

    Raises:
        errors.UnsupportedModel: no module with weights runs, or one module holds the weights of several layers as bare
            parameters, so that the head would be the whole network; name the head instead.
    """
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(_owner(name)))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        with params.untouched(model), torch.no_grad():
            model.eval()
            task.forward(model, next(iter(batches(rows.head(1), 1, device_of(model)))).content)
    finally:
        for handle in handles:
            handle.remove()
    head = Mask.of_modules(model, ran[-1:])
    num_layers = sum(value.ndim > 1 for value in model.parameters())
    if not ran or (num_layers > 1 and head.num_selected == head.num_parameters):
        found = "one module holds all weights" if ran else "no module with weights runs in a forward pass"
        raise errors.UnsupportedModel(
            f"{found} of {type(model).__name__}, so its head cannot be found; name it, as in DEL(head='classifier')"
        )
    return head


def _owner(name: str) -> str:
    """Give the module whose weight a parametrization computes, and any other module's own name."""
    return name.partition("parametrizations.")[0].removesuffix(".")
