"""Stop rules: when a method of gradient steps has forgotten enough, by a look at the network after each epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from excise import checks, errors
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, answers
from excise.methods.epoch_state import EpochState
from excise.methods.judging import judged
from excise.train.engine import Engine
from excise.train.masked import effective
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
            looked_at.append(self._unseen(split))
            engine.original_model()
        for rows in looked_at:
            _require_judged("BelowAccuracy", model, rows, engine)

    def watch(self, model: nn.Module, split: Split, mask: Mask, engine: Engine, plan: TrainPlan) -> Watch:
        """Give what counts right answers after each epoch of a run."""
        if self.target is None:
            target = _accuracy("BelowAccuracy", engine.original_model(), self._unseen(split), engine, plan)
        else:
            target = Fraction(repr(float(self.target)))

        def tell(epoch: int, accuracy: Fraction) -> None:
            reached = accuracy < target
            below = "below" if reached else "not below"
            engine.hooks.on_note(
                f"BelowAccuracy: ended after epoch {epoch + 1} of {plan.epochs}, with a forget accuracy of "
                f"{float(accuracy):.4f}, {below} {float(target):.4f}"
                f"{'' if reached else ': the target was not reached; take more epochs or another rate'}"
            )

        return _Latest(
            lambda: _accuracy("BelowAccuracy", model, split.forget, engine, plan), lambda found: found < target, tell
        )

    def _unseen(self, split: Split) -> Rows:
        return _holdout(split, "BelowAccuracy", "take the target from", ", or give a target")


_NO_SHARE = "there is no share of right answers to compare, so run the method by itself"


def _holdout(split: Split, asking: str, what: str, otherwise: str = "") -> Rows:
    if split.holdout is None:
        raise errors.BadRequest(
            f"{asking}: expected holdout rows, which were never trained on, to {what}, found none; give them as "
            f"Split(..., holdout=...), on the command line --holdout{otherwise}"
        )
    return split.holdout


def _require_judged(asking: str, model: nn.Module, rows: Rows, engine: Engine) -> None:
    logits, targets = answers(model, rows, engine)
    require_class_targets(targets, logits, asking, remedy=_NO_SHARE)


def _accuracy(asking: str, model: nn.Module, rows: Rows, engine: Engine, plan: TrainPlan) -> Fraction:
    wrong, _ = judged(model, rows, engine, batch_size=plan.batch_size, asking=asking, remedy=_NO_SHARE)
    return Fraction(len(wrong) - int(wrong.sum()), len(wrong))


class _Latest(Watch):
    """Takes an accuracy after each epoch, and keeps the latest."""

    def __init__(
        self,
        accuracy: Callable[[], Fraction],
        ends: Callable[[Fraction], bool],
        tell: Callable[[int, Fraction], None],
    ) -> None:
        self._accuracy, self._ends, self._tell = accuracy, ends, tell
        self._last: tuple[int, Fraction] | None = None

    def __call__(self, epoch: int) -> bool:
        self._last = (epoch, self._accuracy())
        return self._ends(self._last[1])

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
        self._tell(*self._last)


@dataclass(frozen=True)
class CrossesHoldout(StopRule):
    """Stop where the forget accuracy crosses the holdout's; give the epoch before or after, whichever is closer to it.

    The gap is the accuracy on holdout rows less that on forget rows, both of the network as it is, in eval mode: below 0
    while the forget rows are known better than rows never seen. The run ends after the first epoch whose gap is above 0; of
    that epoch and the one before the one with the smaller |gap| is given, the later if they are alike. The network as it was
    is the one before the first. If all epochs pass and the gap is still below -0.005, that is noted.

    Reads forget and holdout, which should be distributed as the forget rows are; never test. Cost: one pass forward over both
    before the first epoch, and after each. Memory: a copy of the mask's coordinates and all buffers, in checkpoints, too.

    References:
        The stop rule for removing samples of the code of Hoang, Rana, Gupta, Venkatesh, "Learn to Unlearn for Deep Neural
        Networks", WACV 2024, arXiv:2312.04095.

    Raises:
        errors.BadRequest: before any step, no holdout, or a gap above 0 from the start: there is nothing to forget.
        errors.BadData: before any work, targets that are no integer classes of the network.
    """

    def __str__(self) -> str:
        """Complete "until ..."."""
        return "the forget accuracy crosses that of unseen rows"

    @property
    def needs(self) -> frozenset[Need]:
        """Forget and holdout rows."""
        return frozenset({"forget", "holdout"})

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a missing holdout, and targets of rows that are no classes, by running at most 8."""
        for rows in (split.forget, _holdout(split, "CrossesHoldout", "compare with")):
            _require_judged("CrossesHoldout", model, rows, engine)

    def watch(self, model: nn.Module, split: Split, mask: Mask, engine: Engine, plan: TrainPlan) -> Watch:
        """Give what compares the two after each epoch of a run."""
        holdout, allowed = _holdout(split, "CrossesHoldout", "compare with"), effective(mask, model)

        def gap() -> Fraction:
            unseen, known = (_accuracy("CrossesHoldout", model, rows, engine, plan) for rows in (holdout, split.forget))
            return unseen - known

        start = gap()
        if start > 0:
            raise errors.BadRequest(
                f"CrossesHoldout: before the first step the network is right on {float(start):.4f} more of holdout than of "
                "forget: by this rule there is nothing to forget; run the method by itself, or give a holdout that "
                "is distributed as the forget rows are"
            )
        return _Crossing(gap, start, model, allowed, plan, engine)


STILL_KNOWN = Fraction("-0.005")
"""Gap at the end of a run below which people are told."""


class _Crossing(Watch):
    """Compares the gaps of two epochs, and keeps what the earlier of them left."""

    def __init__(
        self,
        gap: Callable[[], Fraction],
        start: Fraction,
        model: nn.Module,
        mask: Mask,
        plan: TrainPlan,
        engine: Engine,
    ) -> None:
        self._gap, self._model, self._mask, self._plan, self._engine = gap, model, mask, plan, engine
        self._before, self._state = start, EpochState.of(model, mask, -1)
        self._crossed: tuple[int, Fraction] | None = None

    def __call__(self, epoch: int) -> bool:
        gap = self._gap()
        if gap > 0:
            self._crossed = (epoch, gap)
            return True
        self._before, self._state = gap, EpochState.of(self._model, self._mask, epoch)
        return False

    def remembered(self) -> dict[str, Tensor]:
        known = [self._before.numerator, self._before.denominator]
        if self._crossed is not None:
            epoch, gap = self._crossed
            known += [epoch, gap.numerator, gap.denominator]
        return {"gaps": torch.tensor(known), **{f"state/{name}": one for name, one in self._state.tensors().items()}}

    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            return
        known = tensors["gaps"].tolist()
        self._before = Fraction(*known[:2])
        self._crossed = (known[2], Fraction(*known[3:])) if known[2:] else None
        state = {name.removeprefix("state/"): one for name, one in tensors.items() if name.startswith("state/")}
        self._state = EpochState.of_tensors(state)

    def end_(self) -> None:
        if self._crossed is None:
            still = "; the forget rows are still known better" if self._before < STILL_KNOWN else ""
            self._tell(f"ended after all {self._plan.epochs} epochs with a gap of {float(self._before):.4f}{still}")
            return
        epoch, gap = self._crossed
        if -self._before >= gap:
            self._tell(f"ended after epoch {epoch + 1} of {self._plan.epochs}, with a gap of {float(gap):.4f}")
            return
        self._state.put_back_(self._model, self._mask)
        which = (
            f"epoch {epoch} of {self._plan.epochs}" if epoch else "the network as it was (take a smaller learning rate)"
        )
        self._tell(
            f"went back to {which}, with a gap of {float(self._before):.4f}; that of epoch {epoch + 1} is {float(gap):.4f}"
        )

    def _tell(self, what: str) -> None:
        self._engine.hooks.on_note(f"CrossesHoldout: {what}")


@dataclass(frozen=True)
class RetainFalls(StopRule):
    """Stop after the first epoch at which the accuracy on rows that stay is more than a bound below what it was before.

    The accuracy is the share of rows that the network gets right, in eval mode; the bound is compared as the decimal it is
    written as, so that equality does not stop. What the last epoch left stays: this ends a run that does harm, and is no
    choice of an epoch.

    Reads retain; or holdout, for requests that have no retained rows: then give as holdout rows of the classes that stay. Cost:
    one pass forward over them before the first epoch, and after each.

    References:
        The stop rule for removing classes of the code of Hoang, Rana, Gupta, Venkatesh, "Learn to Unlearn for Deep Neural
        Networks", WACV 2024, arXiv:2312.04095.

    Args:
        by: share of rows, 0.05 for five points.
        rows: where the accuracy is taken, `retain` or `holdout`.

    Raises:
        errors.BadRequest: another bound or word; before any work, no holdout.
        errors.BadData: before any work, targets that are no integer classes of the network.
    """

    by: float = 0.05
    rows: Literal["retain", "holdout"] = "retain"

    def __post_init__(self) -> None:
        """Check the bound and the word."""
        checks.require_fraction("by", self.by)
        if self.rows not in ("retain", "holdout"):
            raise errors.BadRequest(f"rows: expected retain or holdout, found {self.rows!r}")

    def __str__(self) -> str:
        """Complete "until ..."."""
        return f"the {self.rows} accuracy falls by more than {self.by:g}"

    @property
    def needs(self) -> frozenset[Need]:
        """Retain or holdout rows."""
        needed: Need = self.rows
        return frozenset({needed})

    def _looked_at(self, split: Split) -> Rows:
        return split.retain if self.rows == "retain" else _holdout(split, "RetainFalls", "watch over")

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a missing holdout, and targets of rows that are no classes, by running at most 8."""
        _require_judged("RetainFalls", model, self._looked_at(split), engine)

    def watch(self, model: nn.Module, split: Split, mask: Mask, engine: Engine, plan: TrainPlan) -> Watch:
        """Give what holds each epoch of a run against the network before it."""
        rows, most = self._looked_at(split), Fraction(repr(float(self.by)))

        def accuracy() -> Fraction:
            return _accuracy("RetainFalls", model, rows, engine, plan)

        start = accuracy()

        def tell(epoch: int, found: Fraction) -> None:
            engine.hooks.on_note(
                f"RetainFalls: ended after epoch {epoch + 1} of {plan.epochs}, with an accuracy of {float(found):.4f} "
                f"where it was {float(start):.4f}"
            )

        return _Latest(accuracy, lambda found: start - found > most, tell)
