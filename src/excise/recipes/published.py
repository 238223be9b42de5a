"""Recipes after published systems."""

from __future__ import annotations

from typing import Literal

from excise import errors
from excise.methods import Attract, BelowAccuracy, Method, Sequence, Until
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
