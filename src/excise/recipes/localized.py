"""Recipes that say where to change, and recipes made of parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from excise.localize import (
    Convolutions,
    Cut,
    Everything,
    Gradient,
    GradientDifference,
    Head,
    LastLayers,
    Localizer,
    Reduction,
    Top,
    WeightGradient,
)
from excise.localize.scores import Granularity
from excise.methods import (
    Finetune,
    Nothing,
    Partition,
    Redraw,
    Relabel,
    Reset,
    Sequence,
    Soften,
    Transpose,
    Widened,
    Within,
)
from excise.methods.relabel import Order, Renewal
from excise.recipes.plans import constant
from excise.recipes.recipe import Recipe
from excise.train.plan import TrainPlan


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
        method=Sequence((Reset(to=initial), Widened(Finetune(plan=plan)))),
        where=Cut(
            localizer or WeightGradient(batch_size=batch_size),
            budget_fraction,
            granularity=granularity,
            reduction=reduction or Top(0.1),
        ),
        besides=Head(head),
    )


def SalUn(
    *,
    budget_fraction: float = 0.5,
    epochs: int = 10,
    lr: float = 0.013,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    redraw: Renewal = "batch",
    exclude_true: bool = True,
    order: Order = "apart",
) -> Recipe:
    """Train on random labels for the forget rows, in the half of the weights whose gradient on them is largest. Reads both.

    Score |g| on the forget rows, take single weights for `budget_fraction`, and run `RandomLabel` there. Defaults: the
    published code's for CIFAR-10 and ResNet-18, but that the true label is never drawn, as the paper writes it; its code
    may draw it, and lets weight decay move what the mask leaves out. For CIFAR-100 it takes `order="mixed"` and
    `redraw="epoch"`. Departs from it too in scoring by the mean over rows and not by the sum of batch means.

    Args:
        budget_fraction: share of the weights that may change.
        epochs: passes over forget and retain.
        lr: learning rate, constant.
        batch_size: examples a step, and a batch of the scoring pass.
        momentum: of SGD.
        weight_decay: of SGD.
        redraw: how often labels are drawn, see `methods.Relabel`.
        exclude_true: never draw a row's true label.
        order: forget and retain rows in passes of their own, or mixed, see `methods.Relabel`.
    """
    plan = constant(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, weight_decay=weight_decay)
    return Recipe(
        name="SalUn",
        paper="Fan et al., SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency, ICLR",
        year=2024,
        method=Relabel(plan=plan, redraw=redraw, exclude_true=exclude_true, order=order),
        where=Cut(Gradient(batch_size=batch_size), budget_fraction, granularity="weight"),
    )


def CFk(
    *,
    k: int = 1,
    epochs: int = 10,
    lr: float = 0.01,
    batch_size: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Recipe:
    """Finetune the last k layers on the retain rows; the others stay (catastrophic forgetting of k layers). Reads retain.

    The paper tries many k; it has no one default. Other defaults as in `Finetune`.

    Args:
        k: layers, counted from the output: modules with weights of their own.
        epochs: passes over retain.
        lr: learning rate at the start.
        batch_size: examples a step.
        momentum: of SGD.
        weight_decay: of SGD.
    """
    plan = TrainPlan(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, weight_decay=weight_decay)
    return Recipe(name="CFk", paper=_GOEL, year=2022, method=Finetune(plan=plan), where=LastLayers(k))


def EUk(
    *,
    k: int = 1,
    epochs: int = 10,
    lr: float = 0.1,
    batch_size: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Recipe:
    """Train the last k layers anew on the retain rows; the others stay (exact unlearning of k layers). Reads retain.

    The paper trains them as the network was trained: take that plan's rate and decay. Needs `fresh`.

    Args:
        k: layers, counted from the output: modules with weights of their own.
        epochs: passes over retain.
        lr: learning rate at the start.
        batch_size: examples a step.
        momentum: of SGD.
        weight_decay: of SGD.
    """
    plan = TrainPlan(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, weight_decay=weight_decay)
    method = Sequence((Reset(), Finetune(plan=plan)))
    return Recipe(name="EUk", paper=_GOEL, year=2022, method=method, where=LastLayers(k))


_GOEL = (
    "Goel, Prabhu, Sanyal, Lim, Torr, Kumaraguru, Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv"
)


def MSG(
    *,
    budget_fraction: float = 0.3,
    outside: float = 0.1,
    epochs: int = 5,
    lr: float = 1e-3,
    batch_size: int = 64,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Recipe:
    """Redraw the weights of each convolution on which forget and retain rows differ least, then finetune. Reads both.

    Score |g_retain - g_forget| over the forget rows and as many retain rows, take the *lowest* `budget_fraction` of each
    convolution's kernel, draw them anew, and finetune the whole network on the retain rows, the rest of the kernels at a
    tenth of the gradient. (Masked small gradients, of the NeurIPS 2023 unlearning challenge; ranked first in the study
    cited.) A network without convolutions is refused: there it would only be `Finetune`. Under a mask given by hand, that is
    what is redrawn and finetuned.

    Args:
        budget_fraction: share of each kernel.
        outside: factor of the gradient on the rest of the kernels.
        epochs: passes over retain.
        lr: learning rate in the middle; it rises to it and falls to 0 in equal steps.
        batch_size: examples a step, and a batch of the scoring pass.
        momentum: of SGD.
        weight_decay: of SGD, not softened.
    """
    plan = TrainPlan(
        epochs=epochs,
        lr=lr,
        schedule="triangle",
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    scores = GradientDifference(batch_size=batch_size, retain_rows="as-many-as-forget", accumulate="batch-means")
    return Recipe(
        name="MSG",
        paper=_CADET,
        year=2024,
        method=Sequence((Redraw(), Soften(method=Finetune(plan=plan), outside=outside, among=Convolutions()))),
        where=Cut(scores, budget_fraction, granularity="weight", scope="layer", lowest=True, among=Convolutions()),
        besides=Everything(),
    )


def CT(
    *,
    epochs: int = 3,
    lr: float = 1e-3,
    batch_size: int = 64,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Recipe:
    """Transpose every convolution's kernel, then finetune on the retain rows. Reads retain only.

    (Convolution transpose, of the NeurIPS 2023 unlearning challenge.) Without square kernels wider than 1 it is `Finetune`.

    Args:
        epochs: passes over retain.
        lr: learning rate at the start; a cosine takes it down towards 0.
        batch_size: examples a step.
        momentum: of SGD.
        weight_decay: of SGD.
    """
    plan = TrainPlan(
        epochs=epochs,
        lr=lr,
        final_lr_fraction=0.0,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    return Recipe(name="CT", paper=_CADET, year=2024, method=Sequence((Transpose(), Finetune(plan=plan))))


_CADET = "Cadet et al., Deep Unlearn: Benchmarking Machine Unlearning for Image Classification, arXiv"


def RUM(
    *,
    memorization: Tensor | None = None,
    finetune_epochs: int = 10,
    relabel_epochs: int = 5,
    lr: float = 0.1,
    budget_fraction: float = 0.5,
    batch_size: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Recipe:
    """Split the forget rows by memorisation: nothing, finetune, SalUn from low to high. Reads both.

    The paper's best refinement. It scores memorisation by many networks; give such scores where there are any, since the
    proxy of one network says little (see `methods.Partition`).

    Args:
        memorization: one score a forget row, in order of id; None for the proxy.
        finetune_epochs: of the middle part, passes over what is retained then.
        relabel_epochs: of the high part.
        lr: learning rate of both, constant.
        budget_fraction: share of the weights that SalUn may change.
        batch_size: examples a step.
        momentum: of SGD.
        weight_decay: of SGD.
    """

    plan = partial(constant, lr=lr, batch_size=batch_size, momentum=momentum, weight_decay=weight_decay)
    salun = Within(
        where=Cut(Gradient(batch_size=batch_size), budget_fraction, granularity="weight"),
        method=Relabel(plan=plan(epochs=relabel_epochs)),
    )
    return Recipe(
        name="RUM",
        paper="Zhao et al., What Makes Unlearning Hard and What to Do About It, NeurIPS",
        year=2024,
        method=Partition(
            methods=(Nothing(), Finetune(plan=plan(epochs=finetune_epochs)), salun), memorization=memorization
        ),
    )
