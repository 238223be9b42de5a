"""Attract: pull what the head sees of each forget row to the nearest centroid of another class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from excise import checks, errors, params, seeds
from excise.data.split import Split
from excise.localize.head import linear_head
from excise.masks import Mask
from excise.methods.base import Need, Phased, require_forget_batch_size
from excise.methods.centroids import (
    NO_CENTROIDS,
    centroids_of,
    directions,
    nearest_wrong_of,
    require_others,
)
from excise.methods.distill import require_temperature
from excise.train.before_head import embedded
from excise.train.engine import Cost, Engine
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Pass, Passes, Step
from excise.train.task import cross_entropy, forward_pair, require_class_targets


@dataclass(frozen=True, kw_only=True)
class Attract(Phased):
    """Minimise lambda1 * mean d(psi(x), c_k(x)) over forget rows + lambda2 * mean CE(z / T) over retain rows.

    psi(x) is what the head is given, and d(a, b) = 1 - cos(a, b). The centroid c_k is the mean of psi over all retain rows
    of class k, in the original network and eval mode; k(x) is the class other than x's own with the nearest centroid, in the
    original, too. Both are fixed for the run. A class without retain rows has no centroid, so that nothing is pulled to a
    class that is removed. A row whose psi is zero has no direction: it is at distance 1 and is not pulled.

    Each forget batch takes part in `repeats` steps, each time beside a new retain batch, but in no more than there are retain
    batches. The two are run one after the other, forget first, so that with batch normalisation each is normalised by
    itself. A term whose weight is 0 is not computed: with lambda1 = 0 and T = 1 the steps are those of `Finetune` on the same
    retain batches, to the bit.

    Reads both. Outside the mask nothing moves; the loss before the head does not reach the head. Cost: one pass forward over
    all rows, then, an epoch, `repeats` passes forward and backward over forget, and as many retain batches. Memory: one
    integer a forget row and `[classes, dims]`.

    Departs from published code, see docs/departures.md: that takes centroids from some batches, and looks nearest classes up
    by the number of the batch, so that with more than one forget batch rows are pulled to classes of other rows.

    References:
        Cotogni, Bonato, Sabetta, Pelosin, Nicolosi, "DUCK: Distance-based Unlearning via Centroid Kinematics", 2023,
        arXiv:2312.02052.

    Args:
        plan: epochs, optimizer, schedule, batches.
        lambda1: weight of the distances, at least 0.
        lambda2: weight of the loss on retain rows, at least 0.
        temperature: T, above 0; logits are divided by it before the loss.
        label_smoothing: of the cross-entropy on retain rows, in [0, 1]; other losses have none.
        repeats: steps that each forget batch takes part in, at least 1.
        pace: `forget`, as above; with `retain` an epoch is one round of the retain rows, the forget rows are cycled
            through, and nothing is repeated.
        removed: classes whose centroids are never chosen, besides those without retain rows.
        head: name of the module whose input is psi; None for the last module with weights, which must be linear.
        forget_batch_size: forget rows a step, the plan's batch size if None.
        buffers: rule for running statistics, see `excise.train.masked`; `adapt` is what published code does.

    Raises:
        errors.BadRequest: options out of range; before any work, no original, no other class to be pulled to, a class to be
            removed that the network does not have, label smoothing for a loss of one's own.
        errors.UnsupportedModel: before any work, a head that is not linear and not named, or not run once on one vector a row.
        errors.BadData: before any work, targets that are no integer classes of the network.
    """

    plan: TrainPlan
    lambda1: float = 1.0
    lambda2: float = 1.4
    temperature: float = 2.0
    label_smoothing: float = 0.0
    repeats: int = 6
    pace: Literal["forget", "retain"] = "forget"
    removed: tuple[int, ...] = ()
    head: str | None = None
    forget_batch_size: int | None = None
    buffers: Statistics = "follow-mask"

    def __post_init__(self) -> None:
        """Check the options."""
        require_statistics(self.buffers)
        for name in ("lambda1", "lambda2"):
            checks.require_finite(name, getattr(self, name))
        require_temperature(self.temperature)
        checks.require_fraction("label_smoothing", self.label_smoothing)
        checks.require_positive_int("repeats", self.repeats)
        require_forget_batch_size(self.forget_batch_size)
        if self.pace not in ("forget", "retain"):
            raise errors.BadRequest(f"pace: expected forget or retain, found {self.pace!r}")
        if self.lambda1 == self.lambda2 == 0:
            raise errors.BadRequest(
                "lambda1, lambda2: expected one above 0, found both 0: there is nothing to minimise"
            )
        whole = isinstance(self.removed, tuple) and all(type(name) is int and name >= 0 for name in self.removed)
        if not whole:
            raise errors.BadRequest(f"removed: expected a tuple of classes from 0 on, found {self.removed!r}")

    @property
    def needs(self) -> frozenset[Need]:
        """Both kinds of rows."""
        return frozenset({"forget", "retain"})

    @property
    def statistics(self) -> Statistics:
        """As given."""
        return self.buffers

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse what `Raises` names, found by running at most 8 rows of each kind, and by the labels of all."""
        super().require(model, split, mask, engine)
        if self.label_smoothing and engine.task.loss is not cross_entropy:
            raise errors.BadRequest(
                "label_smoothing: expected 0 beside a loss of your own, since smoothing is the cross-entropy's; found "
                f"{self.label_smoothing!r}"
            )
        if not self.lambda1:
            return
        engine.original_model()
        uncounted = replace(engine, cost=Cost())
        with seeds.isolated(engine.seed, "require"):
            shadow = params.shadow_of(model)
            head = self._head(shadow, split, engine)
            for rows in (split.forget, split.retain):
                for _, logits, targets in embedded(shadow, rows.head(8), uncounted, head=head, batch_size=8):
                    require_class_targets(targets, logits, "Attract", remedy=NO_CENTROIDS)
                    self._require_known(logits.shape[1])
            if engine.task.forward is forward_pair:  # for another only the pass that takes centroids can tell
                require_others(split.forget.labels(), split.retain.labels(), self.removed)

    def passes(self, model: nn.Module, split: Split, engine: Engine) -> Passes:
        """Find centroids and nearest classes, then give one pass an epoch over both streams."""
        away = self._pull(split, engine) if self.lambda1 else None

        def objective(step: Step) -> Tensor:
            terms = [] if away is None else [self.lambda1 * away(step)]
            terms += [self.lambda2 * self._mean_loss(step)] if self.lambda2 else []
            return terms[0] if len(terms) == 1 else terms[0] + terms[1]

        if self.pace == "retain":
            return lambda _: (Pass(objective, ("retain", "forget")),)
        return lambda _: (Pass(objective, ("forget", "retain"), self.repeats),)

    def _pull(self, split: Split, engine: Engine) -> Callable[[Step], Tensor]:
        """Give what computes the mean distance of a step's forget rows to the centroids that are theirs."""
        original = engine.original_model()
        with seeds.isolated(engine.seed, "Attract"):
            head, size = self._head(original, split, engine), self.plan.batch_size
            centroids = centroids_of(original, split.retain, engine, head=head, batch_size=size)
            chosen = nearest_wrong_of(
                original, split.forget, centroids, engine, head=head, batch_size=size, removed=self.removed
            )
        ids, towards = split.forget.ids, directions(centroids.means)

        def mean_distance(step: Step) -> Tensor:
            features = step.features("forget", head).features
            places = torch.searchsorted(ids, step.batches["forget"].ids)
            goals = towards[chosen[places]].to(features)
            return step.mean(1 - (directions(features) * goals).sum(1), "forget")

        return mean_distance

    def _mean_loss(self, step: Step) -> Tensor:
        logits, targets = step.outputs("retain")
        softened = logits / self.temperature
        if self.label_smoothing:
            losses = functional.cross_entropy(softened, targets, reduction="none", label_smoothing=self.label_smoothing)
        else:
            losses = step.engine.task.losses_of(softened, targets, len(step.batches["retain"]))
        return step.mean(losses, "retain")

    def _head(self, shadow: nn.Module, split: Split, engine: Engine) -> str:
        return linear_head(shadow, split.forget, engine.task) if self.head is None else self.head

    def _require_known(self, num_classes: int) -> None:
        unknown = [name for name in self.removed if name >= num_classes]
        if unknown:
            raise errors.BadRequest(
                f"removed: expected classes of the network, from 0 to {num_classes - 1}, found {unknown[0]}"
            )
