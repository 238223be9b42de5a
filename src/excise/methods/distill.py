"""Distill: away from a teacher on the forget rows, towards it on the retain rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from excise import checks, errors, params
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, Phased, answers, require_forget_batch_size
from excise.train.engine import Engine
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Pass, Passes, Step


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Give KL(teacher || student) of each example, `[batch]`, between the softmaxes of logits / temperature.

    The sum over p * (z_teacher - z_student), and the difference of the log-normalisers. In this form the gradient of equal
    logits is 0 to the bit; through a log-softmax it is rounding noise, which Adam scales up to steps that show.

    Args:
        student: logits `[batch, classes]`; gradients flow here.
        teacher: logits `[batch, classes]`, a constant.
        temperature: above 0.

    >>> divergence(Tensor([[0, 0]]), Tensor([[0, 0]])).tolist()
    [0.0]
    """
    mine, its = (_peak_at_zero(logits) / temperature for logits in (student, teacher.detach()))
    normaliser = its.logsumexp(1)
    weights = (its - normaliser[:, None]).exp()
    return (weights * (its - mine)).sum(1) + mine.logsumexp(1) - normaliser


def _peak_at_zero(logits: Tensor) -> Tensor:
    """Shift each example's logits, which changes no softmax, so that normalisers are small and round little."""
    return logits - logits.detach().amax(1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Distill(Phased):
    """Maximise KL(teacher || student) on the forget rows for some epochs; minimise alpha * KL + gamma * CE on retain in all.

    Each of the first `max_epochs` epochs has a max pass over forget; every epoch has a min pass over retain. KL is taken at
    a temperature T, summed over classes, averaged over the batch, times T^2. The teacher is the network as it was before
    the run, in eval mode, or one that is given; it is never written to, and no parameter of it is copied.

    While student and teacher agree, KL has its minimum and so no slope: under the paper's order the first max batch of a
    network without batch normalisation and dropout has a gradient of exactly 0, and with plain SGD max passes alone never
    leave the start. What breaks the tie is a min pass with gamma > 0 (it lies between the first two max passes), weight
    decay, dropout, batch statistics, a method before this one, or `first="min"`. The objective of the max passes has no
    bound: keep them few.

    Reads retain, and forget if `max_epochs` is not 0. Outside the mask nothing moves. Cost: `max_epochs` passes forward and
    backward over forget and `plan.epochs` over retain, and the teacher's forward pass beside each (on retain not if alpha
    is 0). Memory: activations and buffers of the teacher. With alpha 0, gamma 1 and no max epoch it is `Finetune`.

    Departs from published codes: RUM's runs one max pass more than it is told; for that give `max_epochs` + 1. For the
    rewind of SCRUB+R see `ClosestEpoch`.

    References:
        Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS 2023,
        arXiv:2302.09880 (SCRUB); Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015 (T^2).

    Args:
        plan: epochs, optimizer, schedule, batches.
        max_epochs: epochs with a max pass, the first ones, from 0 to the plan's.
        alpha: weight of KL on retain rows, at least 0; 0.5 as in SCRUB's small-scale code, which has the next two, too.
        gamma: weight of the loss on retain rows, at least 0.
        temperature: T, above 0.
        first: which of an epoch's passes comes first, `max` as in the paper or `min`.
        forget_batch_size: forget rows a step, the plan's batch size if None.
        buffers: rule for running statistics, see `excise.train.masked`; `adapt` is what published codes do.
        teacher: a network of the same classes on the same device; None for the one before the run.

    Raises:
        errors.BadRequest: options out of range; before any work, a network of a single class, a teacher of other classes, or
            none to be had.
    """

    plan: TrainPlan
    max_epochs: int
    alpha: float = 0.5
    gamma: float = 1.0
    temperature: float = 2.0
    first: Literal["max", "min"] = "max"
    forget_batch_size: int | None = None
    buffers: Statistics = "follow-mask"
    teacher: nn.Module | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        require_statistics(self.buffers)
        for name in ("alpha", "gamma"):
            checks.require_finite(name, getattr(self, name))
        require_temperature(self.temperature)
        if self.first not in ("max", "min"):
            raise errors.BadRequest(f"first: expected max or min, found {self.first!r}")
        require_forget_batch_size(self.forget_batch_size)
        if type(self.max_epochs) is not int or not 0 <= self.max_epochs <= self.plan.epochs:
            raise errors.BadRequest(
                f"max_epochs: expected an integer from 0 to {self.plan.epochs}, the plan's epochs; found "
                f"{self.max_epochs!r}"
            )
        if self.teacher is not None and not isinstance(self.teacher, nn.Module):
            raise errors.BadRequest(
                f"teacher: expected a network, found {type(self.teacher).__name__}; "
                "leave it out to learn from the network as it was"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Retain rows; forget rows too where there is a max pass."""
        return frozenset({"forget", "retain"} if self.max_epochs else {"retain"})

    @property
    def statistics(self) -> Statistics:
        """As given."""
        return self.buffers

    def passes(self, model: nn.Module, split: Split, engine: Engine) -> Passes:
        """Give a max pass over forget, in the first epochs, and a min pass over retain."""
        teacher = self._teacher(model, split, engine)
        away = Pass(lambda step: -self._kl(step, "forget", step.outputs("forget")[0], teacher), ("forget",))
        near = Pass(lambda step: self._kept(step, teacher), ("retain",))
        both = (away, near) if self.first == "max" else (near, away)
        return lambda epoch: both if epoch < self.max_epochs else (near,)

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a network of a single class and a teacher of other classes, found by running at most 8 retain rows."""
        super().require(model, split, mask, engine)
        if not self._listens:
            return
        own, _ = answers(model, split.retain, engine)
        require_classes("Distill", own)
        if self.teacher is not None:
            _require_same_classes(params.shadow_of(params.unwrapped(self.teacher)), own, split, engine)

    @property
    def _listens(self) -> bool:
        """Whether a divergence is taken at all."""
        return self.max_epochs > 0 or self.alpha > 0

    def _teacher(self, model: nn.Module, split: Split, engine: Engine) -> nn.Module | None:
        if not self._listens:
            return None
        if self.teacher is None:
            return engine.original_model()
        shadow = params.shadow_of(params.unwrapped(self.teacher))
        _require_same_classes(shadow, answers(model, split.retain, engine)[0], split, engine)
        return shadow

    def _kl(self, step: Step, stream: str, logits: Tensor, teacher: nn.Module | None) -> Tensor:
        assert teacher is not None
        require_classes("Distill", logits)
        each = divergence(logits, step.outputs_of(teacher, stream), self.temperature)
        return self.temperature**2 * step.mean(each, stream)

    def _kept(self, step: Step, teacher: nn.Module | None) -> Tensor:
        """The objective of a min pass; what has no weight is not computed."""
        if self.alpha == 0:
            return self.gamma * step.mean_loss("retain")
        logits, targets = step.outputs("retain")
        near = self.alpha * self._kl(step, "retain", logits, teacher)
        if self.gamma == 0:
            return near
        losses = step.engine.task.losses_of(logits, targets, len(step.batches["retain"]))
        return near + self.gamma * step.mean(losses, "retain")


def require_temperature(value: float) -> None:
    """Refuse a temperature that is not a finite number above 0."""
    if checks.require_finite("temperature", value) == 0:
        raise errors.BadRequest(f"temperature: expected a finite number above 0, found {value!r}")


def require_classes(name: str, logits: Tensor) -> None:
    """Refuse logits `[batch, classes]` of a single class."""
    if logits.shape[1] < 2:
        raise errors.BadRequest(
            f"{name}: expected logits of two classes or more, found {logits.shape[1]}: a softmax over one class is always 1, "
            "so that there is nothing to learn from a teacher; use a method of the loss, such as Finetune or Ascend"
        )


def _require_same_classes(teacher: nn.Module, own: Tensor, split: Split, engine: Engine) -> None:
    """Refuse a teacher whose logits on the first retain rows have not the shape of the network's `own`."""
    found, _ = answers(teacher, split.retain, engine)
    if found.shape != own.shape:
        raise errors.BadRequest(
            f"teacher: expected logits of shape {tuple(own.shape)}, as the network's, found {tuple(found.shape)}; "
            "give a network of the same classes"
        )
