"""The order in which a network's modules begin to run, and the weights that belong to each."""

from __future__ import annotations

import torch
from torch import nn

from excise import params
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.train.task import Task, device_of


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
