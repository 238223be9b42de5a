"""Named papers as rows: where to change, how much, by which method, with every tuned constant a named default.

Each function gives a `Recipe`. Nothing here computes; a reader can check a row against its paper in a minute.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from excise import checks
from excise.curvature import Importance
from excise.localize import Localizer, Reduction, Top, WeightGradient
from excise.localize.scores import Granularity
from excise.methods import Ascend, Contrast, Dampen, Influence, Method, Reset, Sequence, Sparsify, WithHead
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


def NegGradPlus(
    *, alpha: float = 0.95, epochs: int = 5, lr: float = 0.01, batch_size: int = 256, momentum: float = 0.9
) -> Recipe:
    """Descend the loss of the retain rows and ascend that of the forget rows, with the whole network. Reads both.

    Defaults: `alpha` from SCRUB's small-scale script (which takes 10 epochs); epochs, `lr` and batch size from the RUM
    benchmark; a constant rate and no decay as in the DEL code, whose `alpha` is 0.99.

    Args:
        alpha: weight of the retain rows.
        epochs: passes over retain.
        lr: learning rate, constant.
        batch_size: retain rows a step, and as many forget rows.
        momentum: of SGD.
    """
    plan = TrainPlan(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, schedule="constant")
    return Recipe(
        name="NegGradPlus",
        paper="Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS",
        year=2023,
        method=Contrast(plan=plan, alpha=alpha),
    )


def L1Sparse(
    *,
    kappa: float = 7e-5,
    no_l1_epochs: int = 0,
    epochs: int = 10,
    lr: float = 0.01,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> Recipe:
    """Finetune the whole network on the retain rows under an L1 penalty that fades out. Reads retain only.

    Defaults: `kappa` from the DEL code, which takes no decay either; epochs, `lr` and batch size from the RUM benchmark. The
    SalUn code's own default of 0.2 is there to be tuned; papers settle on values of the order of 1e-4.

    Args:
        kappa: weight of the norm in the first epoch.
        no_l1_epochs: epochs at the end without a penalty.
        epochs: passes over retain.
        lr: learning rate at the start.
        batch_size: examples a step.
        momentum: of SGD.
        weight_decay: of SGD.
    """
    plan = TrainPlan(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, weight_decay=weight_decay)
    return Recipe(
        name="L1Sparse",
        paper="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS",
        year=2023,
        method=Sparsify(plan=plan, kappa=kappa, no_l1_epochs=no_l1_epochs),
    )


def SSD(
    *,
    selection: float = 10.0,
    dampening: float = 1.0,
    importance: Importance = "example",
    batch_size: int = 128,
) -> Recipe:
    """Shrink the weights that matter more to the forget rows than to all rows; train nothing. Reads both, once.

    Defaults: the published code's for whole classes and for random rows of ResNets. On rows like all others it does next to
    nothing. Where a tenth of the rows or more is to be forgotten no weight can be 10 times as important to them as to all,
    and the recipe says so: lower `selection`.

    Args:
        selection: how many times as important to forget as to all a weight must be.
        dampening: the share of the ratio of importances that is left.
        importance: `example`, as the paper defines it, or `batch-means`, as its code computes it; see `methods.Dampen`.
        batch_size: rows a batch, for `batch-means`.
    """
    method = Dampen(selection=selection, dampening=dampening, importance=importance, batch_size=batch_size)
    return Recipe(
        name="SSD",
        paper="Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, AAAI",
        year=2024,
        method=method,
    )


def IU(
    *,
    alpha: float = 1.0,
    mode: Literal["exact", "reference"] = "exact",
    damping: float = 1.0,
    num_rows: int | None = 1000,
) -> Recipe:
    """Take one influence step towards what the network would be without the forget rows. Reads both.

    Defaults: `alpha` 1 is the step of the theory; `damping` 1 and 1000 rows are what the published recursion starts from and
    runs over. Less damping makes the step longer and the solve dearer, up to the cost of a retraining. The published
    codes' numbers are those of `mode="reference"`, with an `alpha` tuned for each data set: 1,900 to 42,000 in the DEL code.

    Args:
        alpha: length of the step.
        mode: `exact`, or the published `reference`; see `methods.Influence`.
        damping: added to the curvature, for `exact`.
        num_rows: retain rows that the curvature is made of; None for all.
    """
    return Recipe(
        name="IU",
        paper="Izzo, Smart, Chaudhuri, Zou, Approximate Data Deletion from Machine Learning Models, AISTATS",
        year=2021,
        method=Influence(alpha=alpha, mode=mode, damping=damping, num_rows=num_rows),
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
    recipe.__name__: recipe for recipe in (DEL, Finetune, NegGrad, NegGradPlus, L1Sparse, SSD, IU, Retrain, Nothing)
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
