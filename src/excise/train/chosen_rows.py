"""A weight's gradient, computed for the chosen rows only.

A row of a linear or convolutional layer's weight is an output channel: its gradient needs that channel of the gradient that
comes from above, and no other. Where a mask takes some of the rows, `ChosenLayers` has the layer's backward pass compute
those, straight into the compact leaf that the optimizer holds. The forward pass is torch's own, to the bit, and so are the
kernels of the backward pass. A third or more of a step is spent on gradients of weights; what is left out of them is saved.

The parameter itself goes on asking for a gradient. Whatever reaches it another way (a penalty on the weights, a tied
embedding, a functional call, a second derivative) arrives in `parameter.grad` as ever, and belongs to the leaf's gradient
too. So a layer may leave the short way in any call that it was not made for, and nothing is lost: under `vmap`,
`functional_call` and `torch.compile`, with tensors of other kinds than plain ones, and with hooks on the weight, which are to
see the whole gradient. Under autocast it computes in the precision that torch's own would, and the leaf's gradient has the
leaf's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

MOST_CHOSEN = 0.8
"""Share of a weight's rows above which nothing is saved: kernels work in blocks of channels, and picking costs a copy."""

LEAST_LEFT_OUT_LINEAR = 2**16
"""Weights of a linear layer outside the mask below which Python takes longer than the multiply-adds left out."""

LEAST_LEFT_OUT_CONVOLUTION = 2**14
"""The same of a convolution, whose every weight is used at many positions."""

_CONVOLUTIONS: dict[Any, Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}


@dataclass(frozen=True, eq=False)
class ChosenRows:
    """Some rows of a parameter.

    Attributes:
        parameter: of a network.
        index: `[rows]` int32 or int64, along the parameter's first axis.
        leaf: `[rows, ...]`, what is trained in their place; gradients arrive in its `grad`.
    """

    parameter: nn.Parameter
    index: Tensor
    leaf: Tensor

    def leave_out(self, least: int) -> bool:
        """Say whether at least so many weights are left out, and a share of the rows that is worth it."""
        rows = self.parameter.shape[0]
        left_out = (rows - len(self.index)) * (self.parameter.numel() // rows)
        return len(self.index) <= MOST_CHOSEN * rows and left_out >= least


class ChosenLayers:
    """The layers of a network whose chosen rows are computed alone: where that can be done, and pays.

    Layers are modules that run the `forward` of torch's `Linear`, `Conv1d`, `Conv2d` or `Conv3d` (one group) with a weight that
    is a plain parameter.
    """

    def __init__(self, model: nn.Module, chosen: Iterable[ChosenRows]) -> None:
        self._switch = _Switch()
        of_parameter = {id(rows.parameter): rows for rows in chosen}
        self._layers: list[tuple[nn.Module, _Forward]] = []
        for module in model.modules():
            rows = of_parameter.get(id(module._parameters.get("weight")))
            if rows is None or "forward" in vars(module):
                continue
            operation = _operation(module)
            if operation is not None and rows.leave_out(operation.least_left_out()):
                self._layers.append((module, _Forward(module, rows, self._switch)))

    def __len__(self) -> int:
        return len(self._layers)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take the place of the layers' `forward`, which is put back afterwards, also on failure.

        A copy or a pickle of the network that is made meanwhile is an ordinary network.
        """
        try:
            for module, forward in self._layers:
                vars(module)["forward"] = forward
            yield
        finally:
            for module, forward in self._layers:
                if vars(module).get("forward") is forward:
                    del vars(module)["forward"]

    def backward(self, loss: Tensor) -> None:
        """Run a loss backward; gradients of chosen rows come to the leaves, all others to the parameters.

        Any other backward pass, such as one that an objective runs for itself, gives every parameter its whole gradient.
        """
        self._switch.on = True
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        finally:
            self._switch.on = False


@dataclass
class _Switch:
    on: bool = False


def _autocast(inputs: Tensor) -> torch.dtype | None:
    """Give the precision that autocast has a layer compute in; None where it is off, or the device has none (`meta`)."""
    kind = inputs.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


class _Operation(ABC):
    """What a layer computes, and its derivatives, each a differentiable function of tensors."""

    dims: range
    """How many axes an input may have."""

    @abstractmethod
    def least_left_out(self) -> int:
        """Give how many weights have to be left out for the short way to pay."""

    def prepared(self, inputs: Tensor) -> Tensor:
        """Give what the operation is applied to."""
        return inputs

    @abstractmethod
    def outputs(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Give what the layer gives."""

    @abstractmethod
    def to_inputs(self, gradient: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
        """Bring a gradient from the outputs to the inputs."""

    @abstractmethod
    def to_weight(self, gradient: Tensor, inputs: Tensor, like: Tensor) -> Tensor:
        """Bring a gradient from outputs, of as many channels as `like` has rows, to a weight like `like`."""

    @abstractmethod
    def to_bias(self, gradient: Tensor) -> Tensor:
        """Bring a gradient from the outputs to the bias."""

    @abstractmethod
    def channels(self, gradient: Tensor, index: Tensor) -> Tensor:
        """Give some channels of the outputs' gradient."""


class _Linear(_Operation):
    dims = range(1, 64)

    def least_left_out(self) -> int:
        return LEAST_LEFT_OUT_LINEAR

    def outputs(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(inputs, weight, bias)

    def to_inputs(self, gradient: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
        return gradient.matmul(weight)

    def to_weight(self, gradient: Tensor, inputs: Tensor, like: Tensor) -> Tensor:
        rows, columns = like.shape
        return gradient.reshape(-1, rows).t().mm(inputs.reshape(-1, columns))

    def to_bias(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(-1, gradient.shape[-1]).sum(0)

    def channels(self, gradient: Tensor, index: Tensor) -> Tensor:
        return gradient.index_select(-1, index)


class _Convolution(_Operation):
    def __init__(self, module: Any, apply: Callable[..., Tensor], padding: tuple[int, ...]) -> None:
        self._apply = apply
        self._around = None if module.padding_mode == "zeros" else module._reversed_padding_repeated_twice
        self._mode = module.padding_mode
        self._stride, self._dilation = module.stride, module.dilation
        self._padding = padding if self._around is None else (0,) * len(padding)
        self.dims = range(len(padding) + 2, len(padding) + 3)

    def least_left_out(self) -> int:
        return LEAST_LEFT_OUT_CONVOLUTION

    def prepared(self, inputs: Tensor) -> Tensor:
        return inputs if self._around is None else functional.pad(inputs, self._around, mode=self._mode)

    def outputs(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._apply(inputs, weight, bias, self._stride, self._padding, self._dilation)

    def to_inputs(self, gradient: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
        return self._backward(gradient, inputs, weight, [True, False, False])[0]

    def to_weight(self, gradient: Tensor, inputs: Tensor, like: Tensor) -> Tensor:
        return self._backward(gradient, inputs, like, [False, True, False])[1]

    def to_bias(self, gradient: Tensor) -> Tensor:
        return gradient.sum([0, *range(2, gradient.ndim)])  # torch's own kernel would compute the weight's beside it

    def channels(self, gradient: Tensor, index: Tensor) -> Tensor:
        return gradient.index_select(1, index)

    def _backward(self, gradient: Tensor, inputs: Tensor, weight: Tensor, wanted: list[bool]) -> list[Tensor]:
        none = [0] * len(self._padding)
        settings = (None, self._stride, self._padding, self._dilation, False, none, 1)
        found: list[Tensor] = torch.ops.aten.convolution_backward(gradient, inputs, weight, *settings, wanted)
        return found


def _operation(module: Any) -> _Operation | None:
    """Give what a module computes as it stands, if it is known to the letter."""
    if not module.weight.is_floating_point():
        return None
    if type(module).forward is nn.Linear.forward:
        return _Linear()
    kind = next((kind for kind in _CONVOLUTIONS if type(module).forward is kind.forward), None)
    if kind is None or type(module)._conv_forward is not kind._conv_forward or module.groups != 1:
        return None
    return _convolution(module, _CONVOLUTIONS[kind])


def _convolution(module: Any, apply: Callable[..., Tensor]) -> _Operation | None:
    padding = module.padding
    if padding == "valid":
        padding = (0,) * len(module.stride)
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if any(one % 2 for one in total):  # padded on one side more
            return None
        padding = tuple(one // 2 for one in total)
    return _Convolution(module, apply, padding)


class _Forward:
    """Takes the place of a layer's `forward`. Copied or pickled, it is the ordinary one of the copy."""

    def __init__(self, module: nn.Module, rows: ChosenRows, switch: _Switch) -> None:
        self._module, self._rows, self._switch = module, rows, switch

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        module, leaf, bias = self._module, self._rows.leaf, self._module.bias
        operation = None
        if len(arguments) == 1 and not named and not torch.compiler.is_compiling() and self._plain(arguments[0]):
            operation = _operation(module)  # as it stands now: a network may change a stride while it runs
        if operation is None or arguments[0].ndim not in operation.dims:
            return type(module).forward(module, *arguments, **named)
        inputs = operation.prepared(arguments[0])
        dtype = _autocast(inputs)
        if dtype is not None:
            inputs, bias = inputs.to(dtype), None if bias is None else bias.to(dtype)
        return _ChosenRowsAlone.apply(  # type: ignore[no-untyped-call]
            inputs,
            self._rows.parameter,
            bias,
            leaf.view_as(leaf),  # a node of its own, so that backward can ask whether it is wanted
            operation,
            self._rows.index,
            self._switch,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module, "forward")  # of a copy that has no attributes yet: its class's own

    def _plain(self, inputs: Any) -> bool:
        """Say whether this very call is the plain one: plain tensors, the parameter itself, and nothing that watches."""
        weight = self._rows.parameter
        return (
            torch.is_grad_enabled()
            and self._module.weight is weight
            and weight.requires_grad
            and not weight._backward_hooks
            and not weight._post_accumulate_grad_hooks
            and type(inputs) in (Tensor, nn.Parameter)
            and inputs.layout is torch.strided
            and not inputs.is_nested
            and (inputs.dtype is weight.dtype or inputs.dtype is _autocast(inputs))
            and (weight.dtype is torch.float32 or _autocast(inputs) is None)
            and inputs.device == weight.device
            and not torch._C._are_functorch_transforms_active()
            and forward_ad.unpack_dual(inputs).tangent is None  # type: ignore[no-untyped-call]
        )


class _ChosenRowsAlone(torch.autograd.Function):
    """A layer whose backward pass gives the leaf its rows, and the weight nothing.

    The weight is an input nevertheless: second derivatives go through it, and in any other backward pass than that of
    `ChosenLayers.backward`, or in one that does not reach the leaf (`autograd.grad` inside it), it is given its whole gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        leaf: Tensor,
        operation: _Operation,
        index: Tensor,
        switch: _Switch,
    ) -> Tensor:
        """Give the layer's outputs, `[batch, channels, ...]` (a linear layer's channels come last)."""
        ctx.save_for_backward(inputs, weight)
        ctx.leaf, ctx.operation, ctx.index, ctx.switch = leaf.grad_fn, operation, index, switch
        outputs = operation.outputs(inputs, weight.to(inputs.dtype), bias)
        # a view would not take an in-place operation after it
        return torch.ops.aten._unsafe_view(outputs, outputs.shape) if outputs._is_view() else outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of inputs, weight, bias and leaf."""
        inputs, weight = ctx.saved_tensors
        operation: _Operation = ctx.operation
        precision, weight = weight.dtype, weight.to(inputs.dtype)
        to_inputs = to_weight = to_bias = to_leaf = None
        if ctx.needs_input_grad[0]:
            to_inputs = operation.to_inputs(gradient, inputs, weight)
        if ctx.needs_input_grad[2]:
            to_bias = operation.to_bias(gradient)
        like = weight.detach()
        if ctx.switch.on and torch._C._will_engine_execute_node(ctx.leaf):
            few = operation.channels(gradient, ctx.index)
            to_leaf = operation.to_weight(few, inputs, like[: len(ctx.index)]).to(precision)
        else:
            to_weight = operation.to_weight(gradient, inputs, like).to(precision)
        return to_inputs, to_weight, to_bias, to_leaf, None, None, None
