"""How many multiplications the operations of a traced network take: a count from shapes, to say where the work lies.

Counted are products with weights and of tensors with each other, which is where nearly all of the time goes. The count is the
same on every machine, unlike a measured time.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

_BY_WEIGHT = {F.linear, torch.conv1d, torch.conv2d, torch.conv3d}
_BY_TENSOR = {operator.matmul, torch.matmul, torch.bmm, torch.einsum, F.scaled_dot_product_attention, "matmul", "bmm"}


def products_of(node: fx.Node, values: Mapping[fx.Node, Any], root: nn.Module) -> int:
    """Count the multiplications of one operation.

    Args:
        node: of a traced network.
        values: what each node came to.
        root: holds the modules that nodes name.
    """
    value = values[node]
    while isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, Tensor) or value.ndim < 2:
        return 0
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        channels = value.shape[1 if isinstance(module, _ConvNd) else -1]
        return _weights(module) * value.numel() // max(channels, 1)
    first, *others = [values[one] for one in node.all_input_nodes] or [None]
    if node.target in _BY_WEIGHT and others:
        return int(others[0][0].numel() * value.numel())
    if node.target in _BY_TENSOR and isinstance(first, Tensor):
        return first.shape[-1] * value.numel()
    return 0


def _weights(module: nn.Module) -> int:
    """Count the weights of a module and all within that every row is multiplied with; a table is looked up instead."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)}
    return sum(value.numel() for value in module.parameters() if value.ndim > 1 and id(value) not in tables)


def most_products(model: nn.Module, inputs: Tensor) -> int:
    """Bound the multiplications of a forward pass from above, without running it: each weight, at each place of an input.

    Products of tensors with each other are not in it, and neither are places that a network adds to those of its inputs.
    """
    return _weights(model) * inputs.numel()
