"""The head of a network: its last module with weights, in the order in which modules begin to run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise import errors
from excise.data.rows import Rows
from excise.data.split import Split
from excise.localize.base import Region
from excise.localize.order import entered_modules
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.task import Task


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
            f"{found} of {type(model).__name__}, so its head cannot be found; name it, as in Head('classifier') "
            "(recipes that train a head take its name as head=)"
        )
    return head


def linear_head(model: nn.Module, rows: Rows, task: Task) -> str:
    """Name the classifier head as `head_mask` finds it, which must be an `nn.Linear`. Runs the first row.

    Raises:
        errors.UnsupportedModel: another kind of module, or none, stands there.
    """
    ran = entered_modules(model, rows, task)
    last = model.get_submodule(ran[-1]) if ran else model
    if not isinstance(last, nn.Linear):
        where = (
            f"the last module with weights is {ran[-1]!r}, a {type(last).__name__}"
            if ran
            else "no module with weights runs"
        )
        raise errors.UnsupportedModel(
            f"features: expected a network whose head is an nn.Linear, found that in {type(model).__name__} {where}; "
            "name the module whose input is wanted (head=)"
        )
    return ran[-1]
