"""Depth: how far from the output, or from the input, a weight's module runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from excise import errors
from excise.curvature import trainable
from excise.data.split import Split
from excise.localize.base import Localizer
from excise.localize.order import entered_modules, weights_by_module
from excise.localize.scores import Scores
from excise.train.engine import Engine


@dataclass(frozen=True)
class Deepest(Localizer):
    """Score weights by how late their module is entered in a forward pass: the output side first.

    Modules with weights of their own are numbered in the order in which one forget row enters them, in eval mode; all
    weights of a module score its number. `Cut(Deepest(), 0.3, granularity="module")` takes whole layers from the output
    on, and with `partial=True` a part of the last one, from its first weight on.

    - A module that is used twice counts where it is entered last, and a weight that several modules share (tied weights)
      with the last of them: where it is nearest to the output.
    - A network that holds weights beside its modules (a position embedding at the root) is entered before them all: these
      weights come last of those that run.
    - A module that is never entered itself, inside one with weights of its own that is (the output projection of torch's
      attention, whose weights the attention reads), counts with that one; the network itself is no such one.
    - All others that never run score 0, the lowest.

    Reads one forget row, and of it nothing but the way that it takes. Changes nothing. Cost: one row forward, which is not
    counted. Memory: nothing to speak of.

    The paper names the strategy and publishes no code for it: whole layers or a part of the last are a matter of the cut.

    References:
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025.
    """

    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give the numbers.

        Raises:
            errors.UnsupportedModel: no module with weights runs, or one module holds the weights of several layers.
        """
        return _scores(model, split, engine, _by_last)


@dataclass(frozen=True)
class Shallowest(Localizer):
    """Score weights by how early their module is entered in a forward pass: the input side first.

    `Deepest` from the other side, and like it in everything else: a module that is used twice counts where it is entered
    first, a tied weight with the first of its modules, and weights beside the modules at the root come first of all. What
    never runs is the lowest here too. Where every module runs once and holds its own weights, the order is that of
    `Deepest` turned around.

    References:
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025.
    """

    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give the numbers.

        Raises:
            errors.UnsupportedModel: no module with weights runs, or one module holds the weights of several layers.
        """
        return _scores(model, split, engine, lambda order: _by_last(order[::-1]))


def _by_last(order: Sequence[str]) -> dict[str, int]:
    """Number names from 1 on; a name that stands twice has its later number."""
    return {name: place for place, name in enumerate(order, 1)}


def _scores(
    model: nn.Module, split: Split, engine: Engine, numbered: Callable[[Sequence[str]], dict[str, int]]
) -> Scores:
    """Score every weight by the highest number of its modules."""
    numbers = numbered(entered_modules(model, split.forget, engine.task))
    best: dict[int, int] = {}
    for module, weights in weights_by_module(model).items():
        for weight in weights:
            best[id(weight)] = max(best.get(id(weight), 0), _number(module, numbers))
    _require_layers(model, numbers, set(best.values()))
    return Scores.of(
        model,
        {
            name: torch.full((), float(best[id(value)]), device=value.device, dtype=torch.float32).expand(value.shape)
            for name, value in trainable(model).items()
        },
    )


def _number(module: str, numbers: Mapping[str, int]) -> int:
    """Give a module's number, or that of the nearest module around it, but for the network itself; or 0."""
    while module not in numbers:
        module = module.rpartition(".")[0]
        if not module:
            return 0
    return numbers[module]


def _require_layers(model: nn.Module, numbers: Mapping[str, int], found: set[int]) -> None:
    num_layers = sum(value.ndim > 1 for value in model.parameters())
    if not numbers or (num_layers > 1 and len(found) == 1):
        what = "one module holds all weights" if numbers else "no module with weights runs in a forward pass"
        raise errors.UnsupportedModel(
            f"{what} of {type(model).__name__}, so its layers have no order; name what may change instead, "
            "as in Modules(('classifier',))"
        )
