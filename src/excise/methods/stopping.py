"""Stop rules: when a method of gradient steps has forgotten enough, by a look at the network after each epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from excise import checks, errors
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, answers
from excise.methods.judging import judged
from excise.train.engine import Engine
from excise.train.plan import TrainPlan
from excise.train.task import require_class_targets


class Watch(ABC):
    """Looks at one run after each of its epochs. Made by a `StopRule` for that run.

    What it carries from epoch to epoch goes through `remembered` and `recall_`, so that a run that goes on from a checkpoint
    ends with the same bits; all else follows from network, rows and seed before the first step, and is found again.
    """

    @abstractmethod
    def __call__(self, epoch: int) -> bool:
        """Look at the network after an epoch, counted from 0; give whether the run ends there."""

    @abstractmethod
    def remembered(self) -> Mapping[str, Tensor]:
        """Give all that is carried from epoch to epoch, for a checkpoint."""

    @abstractmethod
    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `remembered` gave; there may be nothing."""

    @abstractmethod
    def end_(self) -> None:
        """Close the run, once, after its last epoch: tell the hooks, and put an earlier epoch back if the rule says so."""


class StopRule(ABC):
    """When to end a run. A subclass is a frozen dataclass, whose text (`str`) completes "until ..."."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """The rows that it looks at."""

    @abstractmethod
    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse, before any work, what could not be judged, as `Method.require` does."""

    @abstractmethod
    def watch(self, model: nn.Module, split: Split, mask: Mask, engine: Engine, plan: TrainPlan) -> Watch:
        """Give what looks at one run of `plan` that is about to begin; what it costs is counted in `engine`."""


@dataclass(frozen=True)
class BelowAccuracy(StopRule):
    """Stop after the first epoch whose forget accuracy is strictly below a target.

    The forget accuracy is the share of forget rows that the network gets right, in eval mode. Without a target it is the
    accuracy of the network as it was before the run on the holdout rows: what it gets right of rows that it never saw.
    Shares are compared as fractions, a target as the decimal it is written as, so that equality is equality: it does not
    stop. The network before the first epoch is not looked at.

    Reads forget, and holdout if there is no target; never test. Cost: one pass forward over forget after each epoch, and one
    over holdout before the first.

    References:
        Cotogni, Bonato, Sabetta, Pelosin, Nicolosi, "DUCK: Distance-based Unlearning via Centroid Kinematics", 2023,
        arXiv:2312.02052, where the second target is the accuracy on test rows; those are for the audit.

    Args:
        target: above 0, at most 1; None for the original network's accuracy on the holdout.

    Raises:
        errors.BadRequest: no such target; before any work, none to be had, for want of holdout rows or of the original.
        errors.BadData: before any work, targets that are no integer classes of the network.
    """

    target: float | None = None

    def __post_init__(self) -> None:
        """Check the target."""
        if self.target is not None and checks.require_fraction("target", self.target) == 0:
            raise errors.BadRequest("target: expected an accuracy above 0, found 0: none is below it")

    def __str__(self) -> str:
        """Complete "until ..."."""
        return f"the forget accuracy is below {'that of unseen rows' if self.target is None else f'{self.target:g}'}"

    @property
    def needs(self) -> frozenset[Need]:
        """Forget rows; holdout too if there is no target."""
        return frozenset({"forget", "holdout"} if self.target is None else {"forget"})

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a target that is not to be had, and targets of rows that are no classes, by running at most 8."""
        looked_at = [split.forget]
        if self.target is None:
            looked_at.append(_holdout(split))
            engine.original_model()
        for rows in looked_at:
            logits, targets = answers(model, rows, engine)
            require_class_targets(targets, logits, "BelowAccuracy", remedy=_NO_SHARE)

    def watch(self, model: nn.Module, split: Split, mask: Mask, engine: Engine, plan: TrainPlan) -> Watch:
        """Give what counts right answers after each epoch of a run."""

        def num_right(network: nn.Module, rows: Rows) -> int:
            wrong, _ = judged(
                network, rows, engine, batch_size=plan.batch_size, asking="BelowAccuracy", remedy=_NO_SHARE
            )
            return len(wrong) - int(wrong.sum())

        if self.target is None:
            unseen = _holdout(split)
            target = Fraction(num_right(engine.original_model(), unseen), len(unseen))
        else:
            target = Fraction(repr(float(self.target)))
        return _Counting(lambda: Fraction(num_right(model, split.forget), len(split.forget)), target, plan, engine)


_NO_SHARE = "there is no share of right answers to compare, so run the method by itself"


def _holdout(split: Split) -> Rows:
    if split.holdout is None:
        raise errors.BadRequest(
            "BelowAccuracy: expected holdout rows, which were never trained on, to take the target from, found none; "
            "give them as Split(..., holdout=...), or give a target"
        )
    return split.holdout


class _Counting(Watch):
    """Compares the forget accuracy with a target, and keeps only where it came to."""

    def __init__(self, accuracy: Callable[[], Fraction], target: Fraction, plan: TrainPlan, engine: Engine) -> None:
        self._accuracy, self._target, self._plan, self._engine = accuracy, target, plan, engine
        self._last: tuple[int, Fraction] | None = None

    def __call__(self, epoch: int) -> bool:
        self._last = (epoch, self._accuracy())
        return self._last[1] < self._target

    def remembered(self) -> dict[str, Tensor]:
        if self._last is None:
            return {}
        epoch, accuracy = self._last
        return {"last": torch.tensor([epoch, accuracy.numerator, accuracy.denominator])}

    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors:
            epoch, *accuracy = tensors["last"].tolist()
            self._last = (epoch, Fraction(*accuracy))

    def end_(self) -> None:
        assert self._last is not None
        epoch, accuracy = self._last
        below = "below" if accuracy < self._target else "not below"
        self._engine.hooks.on_note(
            f"BelowAccuracy: ended after epoch {epoch + 1} of {self._plan.epochs}, with a forget accuracy of "
            f"{float(accuracy):.4f}, {below} {float(self._target):.4f}"
        )
