"""The head of a network: its last module with weights, in the order in which modules begin to run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from excise import errors, params
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.localize.base import Region
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.task import Task, device_of


@dataclass(frozen=True)
class Head(Region):
    """The classifier head: see `head_mask`. Reads one forget row, and none if it is named.

    Args:
        name: of the module that is the head; None to find it.
    """

    name: str | None = None

    def __str__(self) -> str:
        return "the head"

    @property
    def reads_forget(self) -> bool:
        """Unless it is named."""
        return self.name is None

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the head's mask."""
        if self.name is not None:
            return Mask.of_modules(model, [self.name])
        return head_mask(model, split.forget, engine.task)


def head_mask(model: nn.Module, rows: Rows, task: Task) -> Mask:
    """Give the mask of the classifier head: all weights of the last module with weights of its own that a forward pass enters.

    Found by running one row, never by a name. (The published DEL code takes every parameter with `fc` or `mlp_head` in
    its name.) If the head's weight is tied to another layer's, that layer moves too. A network that holds weights itself
    beside its modules (a position embedding at the root) is entered first and left last: entering is what counts.

    Raises:
        errors.UnsupportedModel: no module with weights runs, or one module holds the weights of several layers as bare
            parameters, so that the head would be the whole network; name the head instead.
    """
    ran = entered_modules(model, rows, task)
    head = Mask.of_modules(model, ran[-1:])
    num_layers = sum(value.ndim > 1 for value in model.parameters())
    if not ran or (num_layers > 1 and head.num_selected == head.num_parameters):
        found = "one module holds all weights" if ran else "no module with weights runs in a forward pass"
        raise errors.UnsupportedModel(
            f"{found} of {type(model).__name__}, so its head cannot be found; name it, as in DEL(head='classifier')"
        )
    return head


def entered_modules(model: nn.Module, rows: Rows, task: Task) -> list[str]:
    """Name the modules with weights of their own in the order in which the first row enters them, in eval mode.

    A module that is entered twice stands there twice. The network is left as it was.
    """
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for module, name in _owners(model).items()
    ]
    try:
        with params.untouched(model), torch.no_grad():
            model.eval()
            task.forward(model, next(iter(batches(rows.head(1), 1, device_of(model)))).content)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def weights_by_module(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Give each module's own weights under the name that `entered_modules` knows it by; a tied weight stands twice."""
    found: dict[str, list[nn.Parameter]] = {}
    for module, owner in _owners(model).items():
        found.setdefault(owner, []).extend(module.parameters(recurse=False))
    return found


def _owners(model: nn.Module) -> dict[nn.Module, str]:
    """Give the modules that hold weights, and the name of the one that they belong to.

    A parametrization belongs to the module whose weight it computes, and a list of parameters, which never runs, to the
    module around it. Any other module belongs to itself.
    """
    found: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        owner = name.partition("parametrizations.")[0].removesuffix(".")
        if isinstance(module, nn.ParameterList | nn.ParameterDict):
            owner = name.rpartition(".")[0]
            found[model.get_submodule(owner)] = owner
        found[module] = owner
    return found
