"""Which operations give the same values for the same arguments in every step of a training: explicit tables.

What stands in no table is taken to change.
"""

from __future__ import annotations

import builtins
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

# fmt: off
_BY_SIZE = (
    "Conv", "ConvTranspose", "MaxPool", "AvgPool", "LPPool", "AdaptiveMaxPool", "AdaptiveAvgPool", "ConstantPad",
    "ReflectionPad", "ReplicationPad", "ZeroPad", "CircularPad",
)
_ALONE = (
    "Identity", "Linear", "Bilinear", "Embedding", "Flatten", "Unflatten", "ReLU", "ReLU6", "LeakyReLU", "PReLU",
    "ELU", "CELU", "SELU", "GELU", "GLU", "SiLU", "Mish", "Sigmoid", "LogSigmoid", "Tanh", "Tanhshrink", "Softplus",
    "Softsign", "Softshrink", "Hardshrink", "Hardtanh", "Hardswish", "Hardsigmoid", "Threshold", "Softmin", "Softmax",
    "Softmax2d", "LogSoftmax", "LayerNorm", "RMSNorm", "GroupNorm", "LocalResponseNorm", "PixelShuffle",
    "PixelUnshuffle", "ChannelShuffle", "Fold", "Unfold", "Upsample", "ModuleList", "TransformerEncoderLayer",
    "TransformerEncoder",
)
MODES_ALIKE: tuple[type[nn.Module], ...] = tuple(
    getattr(nn, name) for name in (*_ALONE, *(name + size for name in _BY_SIZE for size in ("1d", "2d", "3d")))
)
"""Modules that do the same in training and in eval mode, and draw and write nothing; what they hold is asked besides."""

_OPERATORS = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.neg,
    operator.pow, operator.matmul, operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.getitem,
    builtins.getattr,
)
_OF_TORCH = (
    "abs", "add", "amax", "amin", "avg_pool1d", "batch_norm", "bmm", "cat", "chunk", "clamp", "conv1d", "conv2d",
    "conv3d", "div", "dropout", "einsum", "exp", "eye", "flatten", "flip", "group_norm", "layer_norm", "log",
    "log_softmax", "matmul", "max_pool1d", "max_pool2d", "max_pool3d", "mean", "mul", "neg", "permute", "pow", "relu",
    "relu_", "reshape", "roll", "rsqrt", "sigmoid", "softmax", "split", "sqrt", "square", "squeeze", "stack", "sub",
    "sum", "tanh", "transpose", "unflatten", "unsqueeze", "where",
)
_OF_FUNCTIONAL = (
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "batch_norm", "dropout", "dropout1d", "dropout2d", "dropout3d", "elu", "gelu",
    "group_norm", "hardsigmoid", "hardswish", "hardtanh", "interpolate", "layer_norm", "leaky_relu", "linear",
    "log_softmax", "max_pool1d", "max_pool2d", "max_pool3d", "mish", "normalize", "pad", "pixel_shuffle", "relu",
    "relu6", "scaled_dot_product_attention", "sigmoid", "silu", "softmax", "softplus", "tanh", "unfold",
)
FUNCTIONS: frozenset[object] = frozenset(
    (*_OPERATORS, *(getattr(torch, name) for name in _OF_TORCH), *(getattr(F, name) for name in _OF_FUNCTIONAL))
)
"""Functions without a state; where they may draw or write, `_TRAINING` names the argument that decides it."""
METHODS = frozenset((
    "abs", "add", "add_", "amax", "amin", "bmm", "bool", "chunk", "clamp", "clamp_", "contiguous", "detach", "dim",
    "div", "div_", "double", "exp", "expand", "expand_as", "flatten", "flip", "float", "half", "log", "masked_fill",
    "masked_fill_", "matmul", "mean", "movedim", "mul", "mul_", "neg", "permute", "pow", "relu", "relu_", "repeat",
    "reshape", "roll", "rsqrt", "sigmoid", "size", "softmax", "split", "sqrt", "square", "squeeze", "sub", "sub_",
    "sum", "t", "tanh", "to", "transpose", "type_as", "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as",
))
"""Methods of tensors without a state."""
# fmt: on
_IN_PLACE = frozenset({operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem, torch.relu_})
_TRAINING: dict[object, tuple[str, int, Any]] = {
    torch.dropout: ("train", 2, True),
    torch.batch_norm: ("training", 5, True),
    F.batch_norm: ("training", 5, False),
    F.scaled_dot_product_attention: ("dropout_p", 4, 0.0),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), ("training", 2, True)),
}
"""By function the argument that must be False or 0, by name and by place, and its default."""


def is_unchanging_module(module: nn.Module) -> bool:
    """Say whether a module of torch's gives the same values in every step, in the mode it is in, with all that it holds."""
    if any(value.requires_grad for value in module.parameters()):
        return False
    return all(_is_unchanging_kind(part) for part in module.modules())


def _is_unchanging_kind(module: nn.Module) -> bool:
    if "forward" in vars(module):  # written over by hand
        return False
    if isinstance(module, nn.Embedding) and module.max_norm is not None:  # a lookup rescales the table
        return False
    if any(isinstance(module, kind) and type(module).forward is kind.forward for kind in MODES_ALIKE):
        return True
    if isinstance(module, _DropoutNd | nn.AlphaDropout):
        return not module.training or module.p == 0
    if isinstance(module, nn.MultiheadAttention):
        return not module.training or module.dropout == 0
    if isinstance(module, _BatchNorm):  # without running statistics a row's value depends on its batch
        return not module.training and module.running_mean is not None
    if isinstance(module, _InstanceNorm):
        return not module.training or not module.track_running_stats
    return isinstance(module, nn.RReLU) and not module.training


def is_unchanging_call(node: fx.Node) -> bool:
    """Say whether a call of a function or of a tensor's method gives the same values in every step, for equal arguments."""
    if node.op == "call_method":
        return node.target in METHODS
    if node.op != "call_function" or node.target not in FUNCTIONS:
        return False
    if node.target not in _TRAINING:
        return True
    name, place, default = _TRAINING[node.target]
    given = node.kwargs.get(name, node.args[place] if len(node.args) > place else default)
    return given in (False, 0) and not isinstance(given, fx.Node)


def writes(node: fx.Node) -> bool:
    """Say whether a call writes to its first argument."""
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__")
    if node.op != "call_function":
        return False
    return node.target in _IN_PLACE or bool(node.kwargs.get("inplace")) or node.kwargs.get("out") is not None
