"""Named papers as rows: where to change, how much, by which method, with every tuned constant a named default.

Each function gives a `Recipe`. Nothing here computes; a reader can check a row against its paper in a minute.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from excise import checks
from excise.localize import Localizer, Reduction, Top, WeightGradient
from excise.localize.scores import Granularity
from excise.methods import Ascend, Method, Reset, Sequence, WithHead
from excise.methods import Finetune as FinetuneMethod
from excise.methods import Nothing as NothingMethod
from excise.methods import Retrain as RetrainMethod
from excise.train.plan import TrainPlan


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published way to forget.

    Attributes:
        name: as the literature calls it.
        paper: authors, title, venue.
        year: of publication, 0 where there is no paper.
        method: how to change.
        localizer: where to change; None for everywhere.
        budget_fraction: share of the weights the mask may take.
        granularity: whole channels or single weights.
        reduction: how a channel's score is made from its weights'.
        head: the module that is the classifier head, for methods that train it besides the mask; None to find it.
    """

    name: str
    paper: str
    year: int
    method: Method
    localizer: Localizer | None = None
    budget_fraction: float = 1.0
    granularity: Granularity = "channel"
    reduction: Reduction | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        """Check the budget."""
        checks.require_fraction("budget_fraction", self.budget_fraction)

    def named(self, name: str) -> Recipe:
        """Give the same recipe under another name, for tables that hold one twice."""
        return replace(self, name=name)


def DEL(
    *,
    budget_fraction: float = 0.3,
    epochs: int = 10,
    lr: float = 0.015,
    batch_size: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    reduction: Reduction | None = None,
    localizer: Localizer | None = None,
    granularity: Granularity = "channel",
    head: str | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Recipe:
    """Deletion by Example Localization: reset the channels on which the forget rows lean, finetune them and the head.

    Score |theta * g| on the forget rows, take the highest channels for `budget_fraction` of the weights, put them back to
    untrained values, and finetune them and the whole classifier head on the retain rows. Reads both. Cost: one pass over
    forget and `epochs` over retain. Everything outside mask and head stays bit for bit, buffers of frozen modules too.

    Defaults are the paper's for CIFAR-10 and ResNet-18 (its code: `lr` 0.015, SGD with momentum 0.9, no decay, batch 128,
    cosine per epoch down to 0.01 lr, budget 0.3), but for `epochs`: the code runs 30, as many as its training, and so saves
    nothing; 10 is a third of that. Tune `lr` and `epochs` on a holdout, never on oracles.

    Departs from the published code, which chooses h of top-h as a share of the layer's number of rows (see
    `localize.Top`), cuts the last channel in half, and lets running statistics of frozen layers move; all three can be had
    (`Top(0.1, of="layer")`, `Scores.select(partial=True)`, `methods.Finetune(buffers="adapt")`).

    References:
        Torkzadehmahani, Nasirigerdeh, Kaissis, Rueckert, Dziugaite, Triantafillou, "Improved Localized Machine Unlearning
        Through the Lens of Memorization", TMLR 2025, arXiv:2412.02432.

    Args:
        budget_fraction: share of the weights to reset.
        epochs: passes over retain.
        lr: learning rate at the start.
        batch_size: examples a step.
        momentum: of SGD.
        weight_decay: of SGD.
        reduction: how a channel's score is made, `Top(0.1)` if None; the paper takes `Mean()` for transformers.
        localizer: the criterion, `WeightGradient()` if None.
        granularity: `channel`, or `weight` for the paper's ablation.
        head: name of the classifier head; None to find it.
        initial: values to reset to, by parameter (those training started from); a fresh network's if None.
    """
    plan = TrainPlan(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, weight_decay=weight_decay)
    return Recipe(
        name="DEL",
        paper="Torkzadehmahani et al., Improved Localized Machine Unlearning Through the Lens of Memorization, TMLR",
        year=2025,
        method=Sequence((Reset(to=initial), WithHead(FinetuneMethod(plan=plan)))),
        localizer=localizer or WeightGradient(batch_size=batch_size),
        budget_fraction=budget_fraction,
        granularity=granularity,
        reduction=reduction or Top(0.1),
        head=head,
    )


def Finetune(
    *, epochs: int = 10, lr: float = 0.01, batch_size: int = 128, momentum: float = 0.9, weight_decay: float = 5e-4
) -> Recipe:
    """Go on training the whole network on the retain rows and hope that it forgets. Reads retain only.

    Defaults as in the SalUn benchmark (10 epochs, lr of the order of 0.01, decay 5e-4); the baseline every paper reports.

    Args:
        epochs: passes over retain.
        lr: learning rate at the start.
        batch_size: examples a step.
        momentum: of SGD.
        weight_decay: of SGD.
    """
    plan = TrainPlan(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, weight_decay=weight_decay)
    return Recipe(
        name="Finetune",
        paper="Golatkar, Achille, Soatto, Eternal Sunshine of the Spotless Net, CVPR",
        year=2020,
        method=FinetuneMethod(plan=plan),
    )


def NegGrad(*, epochs: int = 5, lr: float = 1e-4, batch_size: int = 128, momentum: float = 0.9) -> Recipe:
    """Ascend the loss of the forget rows with the whole network. Reads forget only.

    Defaults as in the RUM benchmark (5 epochs at 1e-4). The objective has no bound; few steps do nothing, many ruin the
    network.

    Args:
        epochs: passes over forget.
        lr: learning rate, constant.
        batch_size: examples a step.
        momentum: of SGD.
    """
    plan = TrainPlan(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, schedule="constant")
    return Recipe(
        name="NegGrad",
        paper="Graves, Nagisetty, Ganesh, Amnesiac Machine Learning, AAAI",
        year=2021,
        method=Ascend(plan=plan),
    )


def Retrain(*, plan: TrainPlan) -> Recipe:
    """Train a fresh network on the retain rows by a plan: the honest answer, or with few epochs the row to beat.

    Args:
        plan: how; its schedule runs to its end whatever the number of epochs.
    """
    return Recipe(name="Retrain", paper="(the definition of forgetting)", year=0, method=RetrainMethod(plan=plan))


def Nothing() -> Recipe:
    """Leave the network as it is: the control that every audit must fail."""
    return Recipe(name="Nothing", paper="(a control)", year=0, method=NothingMethod())


RECIPES: dict[str, Callable[..., Recipe]] = {
    recipe.__name__: recipe for recipe in (DEL, Finetune, NegGrad, Retrain, Nothing)
}


def table() -> list[dict[str, Any]]:
    """Give every recipe as a row: name, year, paper, mask, method, and its named defaults."""
    rows = []
    for name, make in RECIPES.items():
        options = inspect.signature(make).parameters
        plain = {key: p.default for key, p in options.items() if isinstance(p.default, int | float | str)}
        example = make(plan=TrainPlan(epochs=1, lr=0.1)) if "plan" in options else make()
        rows.append(
            {
                "name": name,
                "year": example.year,
                "paper": example.paper,
                "mask": _where(example),
                "method": _how(example.method),
                "defaults": plain,
            }
        )
    return rows


def _where(recipe: Recipe) -> str:
    if recipe.localizer is None:
        return "everywhere"
    return f"{type(recipe.localizer).__name__} by {recipe.granularity}, {recipe.budget_fraction:.0%}"


def _how(method: Method) -> str:
    if isinstance(method, Sequence):
        return ", then ".join(_how(part) for part in method.methods)
    if isinstance(method, WithHead):
        return f"{_how(method.method)} with the head"
    return type(method).__name__
