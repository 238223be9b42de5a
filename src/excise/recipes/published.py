"""Recipes after published systems."""

from __future__ import annotations

from collections import abc
from pathlib import Path
from typing import Literal

from excise import errors
from excise.attribution import Datamodel, DatamodelTargets
from excise.curvature import Moments
from excise.methods import (
    Attract,
    BelowAccuracy,
    CrossesHoldout,
    Match,
    Method,
    OracleMean,
    Project,
    RetainFalls,
    Sequence,
    Smooth,
    Until,
)
from excise.methods.project import Criterion
from excise.methods.targets import Answering
from excise.recipes.plans import constant, decaying
from excise.recipes.recipe import Recipe
from excise.train.plan import TrainPlan


def DUCK(
    *,
    scenario: Literal["random", "class"] = "random",
    epochs: int = 10,
    lr: float = 1e-3,
    lambda1: float = 1.0,
    lambda2: float = 1.4,
    temperature: float = 2.0,
    ratio: int = 5,
    batch_size: int = 1024,
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
    target: float | None = None,
    second_stage: bool = False,
    head: str | None = None,
) -> Recipe:
    """Pull forget rows to the nearest centroid of another class until they are as good as unseen. Reads both.

    With `scenario="random"` it stops when the forget accuracy is below that of the original network on the holdout rows, and
    needs `Split(holdout=...)`; the paper takes test rows, which here are for the audit. With `scenario="class"` it stops below
    0.01. `target` takes the place of either. A note says in the end whether it was reached: a small network may need more
    epochs or a larger `lr`; and since only whole epochs are looked at, a rate that is too large goes far beyond.

    Defaults: batch, `lr`, `epochs`, `temperature` and both weights are those of the published README for CIFAR-10 and random
    rows, which are the command line's own but for batch (256), `lr` (4e-4) and `epochs` (200); `ratio` is that of the code of
    the paper's time for CIFAR-10 and CIFAR-100 (later 40 and 5), milestones 25 and 40 with a factor of a half are the command
    line's. For several classes of CIFAR-100 the published script has `epochs=25, lambda1=1.5, lambda2=1.5`; for TinyImageNet
    `epochs=30, lr=2e-4, temperature=3, lambda1=0.5, lambda2=1.5, label_smoothing=0.2` and a `ratio` of 90.

    Args:
        scenario: what is forgotten: rows of all classes, or every row of some classes.
        epochs: passes over forget at most, each of `ratio` + 1 steps a forget batch.
        lr: learning rate of Adam at the start.
        lambda1: weight of the distances, above 0 for a second stage.
        lambda2: weight of the loss on retain rows, likewise.
        temperature: that the logits of retain rows are divided by.
        ratio: steps beyond the first that each forget batch takes part in, each beside a new retain batch.
        batch_size: examples a step, of either kind.
        weight_decay: of Adam, added to the gradient.
        label_smoothing: of the loss on retain rows.
        target: forget accuracy to fall below; None for the scenario's.
        second_stage: add the later code's two epochs at 1e-4 with a tenth of `lambda1` and a weight of 1 for retain rows, in
            batches of 512: one round of retain an epoch for a class, 20 retain batches a forget batch for random rows.
        head: name of the classifier head; None to find it.
    """
    if scenario not in ("random", "class"):
        raise errors.BadRequest(f"scenario: expected random or class, found {scenario!r}")
    falls = tuple(place for place in (25, 40) if place < epochs)
    plan = TrainPlan(
        epochs=epochs,
        lr=lr,
        optimizer="adam",
        weight_decay=weight_decay,
        schedule="milestones" if falls else "constant",
        milestones=falls,
        milestone_factor=0.5,
        batch_size=batch_size,
    )
    attract = Attract(
        plan=plan,
        lambda1=lambda1,
        lambda2=lambda2,
        temperature=temperature,
        label_smoothing=label_smoothing,
        repeats=ratio + 1,
        head=head,
    )
    stop = BelowAccuracy(0.01 if target is None and scenario == "class" else target)
    method: Method = Until(attract, stop)
    if second_stage:
        method = Sequence((method, _second_stage(attract, scenario)))
    return Recipe(
        name="DUCK",
        paper="Cotogni et al., DUCK: Distance-based Unlearning via Centroid Kinematics, arXiv:2312.02052",
        year=2023,
        method=method,
    )


def _second_stage(first: Attract, scenario: Literal["random", "class"]) -> Attract:
    """Give the stage that later code adds where both terms have a weight."""
    if not (first.lambda1 and first.lambda2):
        raise errors.BadRequest(
            f"second_stage: expected lambda1 and lambda2 above 0, found {first.lambda1} and {first.lambda2}"
        )
    plan = TrainPlan(epochs=2, lr=1e-4, optimizer="adam", final_lr_fraction=0.0, batch_size=512)
    return Attract(
        plan=plan,
        lambda1=first.lambda1 / 10,
        lambda2=1.0,
        temperature=first.temperature,
        label_smoothing=first.label_smoothing,
        repeats=20,
        pace="retain" if scenario == "class" else "forget",
        head=first.head,
        forget_batch_size=first.plan.batch_size,
    )


def DMM(
    *,
    datamodel: Datamodel | str | Path,
    multiplier: float = 1.0,
    retain_multiplier: float = 20.0,
    forget_multiplier: float = 5.0,
    epochs: int = 4,
    lr: float = 1e-4,
    decay: float = 0.95,
    batch_size: int = 512,
    anchor: float = 0.0,
) -> Recipe:
    """Predict by a datamodel what a retrained network would say, and train the whole network to say it. Reads both.

    The targets are the network's own logits less the effects of the forget rows, as a datamodel estimated beforehand has them
    (`attribution.estimate`, `excise datamodel`): many trainings once, then a short finetuning for each request. It can be no
    better than those predictions. Defaults: the published ones for CIFAR-10, of Adam; the rate found best there was 1e-3, and
    the rates tried went from 1e-5 to 5e-2: tune it. On a few thousand rows a batch is most of an epoch: take a smaller one.

    Args:
        datamodel: of networks of this architecture on these rows; or the path of its file, which is read at once.
        multiplier: of the effects; one of the published runs takes 10.
        retain_multiplier: retain rows over forget rows.
        forget_multiplier: how often forget rows are in the list.
        epochs: passes over forget, as often, and the sample of retain.
        lr: learning rate of the first epoch.
        decay: what it is multiplied by after each epoch.
        batch_size: examples a step.
        anchor: weight of the squared distance from the weights before; 0 in all published runs.
    """
    return Recipe(
        name="DMM",
        paper=_GEORGIEV,
        year=2024,
        method=Match(
            plan=decaying(epochs=epochs, lr=lr, decay=decay, batch_size=batch_size),
            targets=DatamodelTargets(datamodel, multiplier),
            retain_multiplier=retain_multiplier,
            forget_multiplier=forget_multiplier,
            anchor=anchor,
        ),
    )


def OracleMatching(
    *,
    models: abc.Sequence[Answering],
    retain_multiplier: float = 5.0,
    forget_multiplier: float = 1.0,
    epochs: int = 10,
    lr: float = 1e-3,
    decay: float = 0.95,
    batch_size: int = 512,
    loss: Literal["mse", "ce"] = "mse",
    anchor: float = 0.0,
) -> Recipe:
    """Train the whole network to say what networks say that never saw the forget rows. Reads both. No practical method.

    The networks are retrained ones, of which one would do instead. It shows what a method could come to that predicted their
    answers, as `DMM` does. Keep the networks that judge the result apart from those that it learns from. Defaults: the
    published ones for CIFAR-10, of Adam.

    Args:
        models: networks that never saw the forget rows; or weights of such of this architecture, as state dicts or as
            `excise.oracles.retrain` gives them.
        retain_multiplier: retain rows over forget rows.
        forget_multiplier: how often forget rows are in the list.
        epochs: passes over forget, as often, and the sample of retain.
        lr: learning rate of the first epoch.
        decay: what it is multiplied by after each epoch.
        batch_size: examples a step.
        loss: `mse` against the mean of the networks' logits, or `ce` against the mean of their softmaxes.
        anchor: weight of the squared distance from the weights before.
    """
    return Recipe(
        name="OracleMatching",
        paper=_GEORGIEV,
        year=2024,
        method=Match(
            plan=decaying(epochs=epochs, lr=lr, decay=decay, batch_size=batch_size),
            targets=OracleMean(models, average="probabilities" if loss == "ce" else "logits"),
            retain_multiplier=retain_multiplier,
            forget_multiplier=forget_multiplier,
            loss=loss,
            anchor=anchor,
        ),
    )


_GEORGIEV = "Georgiev et al., Attribute-to-Delete: Machine Unlearning via Datamodel Matching, arXiv:2410.23232"


def JiT(
    *,
    sigma: float = 0.5,
    lr: float = 3e-4,
    num_draws: int = 25,
    epochs: int = 1,
    batch_size: int = 128,
    clamp: bool = True,
    detach_noisy: bool = True,
    accumulate: bool = False,
    mode: Literal["eval", "train"] = "eval",
) -> Recipe:
    """Pull the outputs of forget rows to those of noisy copies of them, with the whole network. Reads forget only, no label.

    Defaults: one pass in the order of ids, 25 draws and 128 rows a step as published; `sigma` 0.5 and `lr` 3e-4 are those of
    the published runs that forget a class with VGG11. Both were tuned for each task and network, from 0.01 to 1.5 and from
    3e-4 to 1.5, and a rate three times too large ruins a network: tune them. The published code also leaves dropout on
    and adds up gradients over the pass: `mode="train"`, `accumulate=True`.

    Args:
        sigma: standard deviation of the noise, in units of the inputs as the network gets them.
        lr: learning rate, constant; of the sum over a batch.
        num_draws: noisy copies of each row a step.
        epochs: passes over forget, in the order of ids.
        batch_size: forget rows a step.
        clamp: keep noisy inputs within the range of the batch.
        detach_noisy: take outputs on noisy inputs as constants; see `methods.Smooth`.
        accumulate: step along the sum of all gradients so far, as the published code does, which never sets them to zero.
        mode: `eval`, or the published `train`, in which dropout acts.
    """
    momentum = 1.0 if accumulate else 0.0  # v <- v + g: the very sum
    plan = constant(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, shuffle=False)
    return Recipe(
        name="JiT",
        paper="Foster et al., An Information Theoretic Approach to Machine Unlearning, arXiv:2402.01401",
        year=2024,
        method=Smooth(plan=plan, sigma=sigma, num_draws=num_draws, clamp=clamp, detach_noisy=detach_noisy, mode=mode),
    )


def PGU(
    *,
    moments: Moments | str | Path | None = None,
    gamma: float = 0.95,
    criterion: Criterion = "energy",
    epochs: int = 100,
    lr: float = 0.05,
    final_lr_fraction: float = 0.2,
    batch_size: int = 128,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    w1: float = 1.0,
    w2: float = 0.2,
    offset: float = 0.05,
    stop: Literal["none", "samples", "class"] = "none",
) -> Recipe:
    """Lower the confidence in the forget rows by steps that the retained rows' inputs cannot feel. Reads forget only.

    Projected-gradient unlearning: see `methods.Project`. With `moments` of the training rows, kept since the network was
    trained, no retained row is read; without, the retain rows are read once. Defaults: the published code's for SmallVGG on
    CIFAR-10 (100 epochs from 0.05 to 0.01, plain SGD, 128 forget rows a step in the order of ids), but that `gamma` is a share
    of energy, as in the work it builds on, and not of singular values (`criterion="published"`), which takes more
    directions; and that the learning rate falls from the first step on. For a class it takes `gamma` 0.9, and `lr` 0.1 or 0.05.

    Every published run stops by a rule; 100 epochs without one may forget far more than rows never seen. Give `stop`.

    Args:
        moments: second moments of the training rows' inputs, or the path of their file (`excise moments`).
        gamma: share of the retained inputs' energy that no step may touch.
        criterion: how directions are counted, see `methods.Project`.
        epochs: passes over forget, at most.
        lr: learning rate at the start.
        final_lr_fraction: share of it to which it falls by one factor an epoch, above 0.
        batch_size: forget rows a step, in the order of ids.
        momentum: of SGD.
        weight_decay: of SGD.
        w1: weight of the loss of confidence.
        w2: weight of the entropy.
        offset: keeps the loss of confidence finite.
        stop: `samples` for `methods.CrossesHoldout`, which needs a holdout; `class` for `methods.RetainFalls(0.05)`, which
            reads retain; or `none`.

    Raises:
        errors.BadRequest: another word.
    """
    if stop not in ("none", "samples", "class"):
        raise errors.BadRequest(f"stop: expected none, samples or class, found {stop!r}")
    plan = TrainPlan(
        epochs=epochs,
        lr=lr,
        schedule="exponential",
        final_lr_fraction=final_lr_fraction,
        batch_size=batch_size,
        shuffle=False,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    project = Project(plan=plan, moments=moments, gamma=gamma, criterion=criterion, w1=w1, w2=w2, offset=offset)
    rule = {"samples": CrossesHoldout(), "class": RetainFalls(), "none": None}[stop]
    return Recipe(
        name="PGU",
        paper="Hoang et al., Learn to Unlearn for Deep Neural Networks: Minimizing Unlearning Interference with Gradient "
        "Projection, WACV",
        year=2024,
        method=project if rule is None else Until(project, rule),
    )
