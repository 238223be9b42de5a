"""TwoTeachers: an untrained teacher for the forget rows, the original for the retain rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from excise import checks, errors, params, seeds
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, Phased, answers
from excise.methods.distill import divergence, require_classes, require_temperature
from excise.train.engine import Engine
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Pass, Passes, Step


@dataclass(frozen=True, kw_only=True)
class TwoTeachers(Phased):
    """Minimise KL(q || student), inside the mask, where q is an untrained network on forget rows and the original on retain.

    Each epoch is one shuffled pass over the forget rows and a sample of the retain rows, drawn once a run from the seed. No
    label is used. Both teachers run in eval mode; neither is written to, and no parameter of the original is copied. The
    student is pulled towards the answers of one arbitrary untrained network, which no retrained network gives.

    Reads both (forget alone if `retain_fraction` is 0), and builds a fresh network. Outside the mask nothing moves. Cost:
    `plan.epochs` passes forward and backward over forget and the sample, and a teacher's forward pass beside each batch
    for each kind of row in it, so two for most. Memory: one more network, and activations of the teachers.

    Departs from the published code, whose divergence is also averaged over classes (`reduction="mean"`): SGD then learns at
    1/C of the rate, while Adam, which that code takes, divides the factor out again but for its epsilon; and which leaves
    the student in whatever mode it came, here training.

    References:
        Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks Using an
        Incompetent Teacher", AAAI 2023, arXiv:2205.08096.

    Args:
        plan: epochs, optimizer, schedule, batches.
        retain_fraction: share of the retain rows that take part, in [0, 1], rounded down to whole rows; 0.3 in the code.
        temperature: of both softmaxes, above 0; the divergence is not scaled back by its square.
        reduction: `batchmean` for the mean over rows of the divergence, or `mean` for that over the number of classes.
        buffers: rule for running statistics, see `excise.train.masked`; `adapt` is what the published code does with a
            student in training mode.

    Raises:
        errors.BadRequest: options out of range; before any work, a share that is less than one retain row, logits of
            a single class, no way to make an untrained network, or no original.
    """

    plan: TrainPlan
    retain_fraction: float = 0.3
    temperature: float = 1.0
    reduction: Literal["batchmean", "mean"] = "batchmean"
    buffers: Statistics = "follow-mask"

    def __post_init__(self) -> None:
        """Check the options."""
        checks.require_fraction("retain_fraction", self.retain_fraction)
        require_temperature(self.temperature)
        require_statistics(self.buffers)
        if self.reduction not in ("batchmean", "mean"):
            raise errors.BadRequest(f"reduction: expected batchmean or mean, found {self.reduction!r}")

    @property
    def needs(self) -> frozenset[Need]:
        """Forget rows and a fresh network; retain rows unless their share is 0."""
        return frozenset({"forget", "retain", "fresh"} if self.retain_fraction else {"forget", "fresh"})

    @property
    def statistics(self) -> Statistics:
        """As given."""
        return self.buffers

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a share of less than one retain row, and logits of a single class."""
        super().require(model, split, mask, engine)
        if self.retain_fraction:
            self._num_retained(split)
        require_classes("TwoTeachers", answers(model, split.forget, engine)[0])

    def _num_retained(self, split: Split) -> int:
        """Give how many retain rows take part."""
        count = math.floor(self.retain_fraction * len(split.retain) + 1e-9)  # 0.29 * 100 is 28.999999999999996
        if count == 0:
            raise errors.BadRequest(
                f"retain_fraction: {self.retain_fraction:g} of {len(split.retain)} retain rows is less than one row; "
                "raise it, or give 0 to use none"
            )
        return count

    def rows(self, split: Split, engine: Engine) -> Mapping[str, Rows]:
        """Give the forget rows and the sample of the retain rows, as one stream `mixed`."""
        if not self.retain_fraction:
            return {"mixed": split.forget}
        count = self._num_retained(split)
        order = torch.randperm(len(split.retain), generator=seeds.generator(engine.seed, "retain sample"))
        ids = torch.cat([split.forget.ids, split.retain.ids[order[:count]]]).sort().values
        return {"mixed": Rows(split.train.source, ids)}

    def passes(self, model: nn.Module, split: Split, engine: Engine) -> Passes:
        """Give one pass over the mixed rows."""
        bad = params.shadow_of(params.unwrapped(engine.fresh_model()))
        good = engine.original_model() if self.retain_fraction else bad  # without retain rows, never asked

        def objective(step: Step) -> Tensor:
            logits, _ = step.outputs("mixed")
            require_classes("TwoTeachers", logits)
            each = divergence(logits, _answers(step, split.forget.ids, bad, good), self.temperature)
            mean = step.mean(each, "mixed")
            return mean if self.reduction == "batchmean" else mean / logits.shape[1]

        return lambda _: (Pass(objective, ("mixed",)),)


def _answers(step: Step, forget_ids: Tensor, bad: nn.Module, good: nn.Module) -> Tensor:
    """Give the teachers' logits `[batch, classes]`: `bad` on the rows to forget, and `good` on the others."""
    everywhere = torch.isin(step.ids("mixed"), forget_ids)
    if bool(everywhere.all()):
        return step.outputs_of(bad, "mixed")
    kept = step.outputs_of(good, "mixed")
    if not bool(everywhere.any()):
        return kept
    forget = torch.isin(step.batches["mixed"].ids, forget_ids)
    return torch.where(forget.to(kept.device)[:, None], step.outputs_of(bad, "mixed"), kept)
