"""Relabel: training on wrong labels for the forget rows, and on the true ones for the retain rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from excise import errors, seeds
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, Phased, answers, require_forget_batch_size
from excise.train.engine import Engine
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Pass, Passes, Step
from excise.train.task import require_class_targets

Renewal = Literal["batch", "epoch", "once"]
Order = Literal["apart", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Relabel(Phased):
    """Minimise CE(forget, random labels) and CE(retain, true labels), inside the mask.

    The label of a forget row is uniform over the classes, those that the logits have, or over all but the true one. It
    follows from the seed alone, and with `redraw="once"` or `"epoch"` from the row's id and not from the order of the
    batches. Labels are replaced in the batch; the data set's own are never written to.

    Reads both. Outside the mask nothing moves. Cost: `plan.epochs` passes forward and backward over all training rows.
    Memory: one number a forget row.

    Departs from published codes, which let the true label be drawn (`exclude_true=False`): of C classes, every C-th row is
    then trained on its own label. SalUn's code for CIFAR-10 and SVHN has `order="apart"` and new labels in each batch,
    which is `redraw="batch"`; its code for CIFAR-100 is `order="mixed", redraw="epoch"`. DEL's code is `order="mixed",
    redraw="once"`; for SVHN it writes the labels where nothing reads them, and so relabels nothing. An epoch holds each
    forget row once, so that `batch` and `epoch` differ in the numbers drawn and not in their law.

    References:
        Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020 (as a baseline); Fan, Liu, Zhang, Wong,
        Wei, Liu, "SalUn", ICLR 2024, arXiv:2310.12508.

    Args:
        plan: epochs, optimizer, schedule, batches.
        redraw: when labels are drawn anew: `batch`, `epoch`, or `once` for the whole run.
        exclude_true: never draw a row's true label.
        order: `apart` (each epoch one pass over forget, then one over retain) or `mixed` (one pass over all training rows).
        forget_batch_size: forget rows a step in a pass of their own, the plan's batch size if None.
        buffers: rule for running statistics, see `excise.train.masked`; `adapt` is what published codes do.

    Raises:
        errors.BadRequest: options that make no sense; in the first step, a network of one class.
        errors.BadData: in the first step, targets that are no integer classes of the network.
    """

    plan: TrainPlan
    redraw: Renewal = "batch"
    exclude_true: bool = True
    order: Order = "apart"
    forget_batch_size: int | None = None
    buffers: Statistics = "follow-mask"

    def __post_init__(self) -> None:
        """Check the options."""
        require_statistics(self.buffers)
        for name, known in (("redraw", get_args(Renewal)), ("order", get_args(Order)), ("exclude_true", (True, False))):
            if getattr(self, name) not in known:
                expected = ", ".join(str(value) for value in known)
                raise errors.BadRequest(f"{name}: expected one of {expected}, found {getattr(self, name)!r}")
        require_forget_batch_size(self.forget_batch_size)
        if self.forget_batch_size is not None and self.order == "mixed":
            raise errors.BadRequest(
                f"forget_batch_size: expected None with order mixed, found {self.forget_batch_size}; forget rows have "
                "no batches of their own there; leave it out, or take the order apart"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Forget and retain rows."""
        return frozenset({"forget", "retain"})

    @property
    def statistics(self) -> Statistics:
        """As given."""
        return self.buffers

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse forget rows without classes to draw from, as at most 8 of them tell; the others are checked step by step."""
        super().require(model, split, mask, engine)
        logits, targets = answers(model, split.forget, engine)
        self._require_classes(targets, logits)

    def passes(self, model: nn.Module, split: Split, engine: Engine) -> Passes:
        """Give one pass over forget with wrong labels and one over retain, or a single one over both."""
        stream = "train" if self.order == "mixed" else "forget"
        true = Pass(lambda step: step.mean_loss("retain"), ("retain",))

        def of_epoch(epoch: int) -> tuple[Pass, ...]:
            fixed = self._draws(split, engine, epoch)
            wrong = Pass(partial(self._mean_loss, stream=stream, forget=split.forget.ids, fixed=fixed), (stream,))
            return (wrong,) if self.order == "mixed" else (wrong, true)

        return of_epoch

    def _draws(self, split: Split, engine: Engine, epoch: int) -> Tensor | None:
        """Give one number in [0, 1) a forget row, `[forget]`; None where each batch draws its own."""
        if self.redraw == "batch":
            return None
        when = () if self.redraw == "once" else (epoch,)
        source = seeds.generator(engine.seed, "relabel", *when)
        return torch.rand(len(split.forget), generator=source, dtype=torch.float64)

    def _mean_loss(self, step: Step, *, stream: str, forget: Tensor, fixed: Tensor | None) -> Tensor:
        """Give the mean loss of a batch in which the rows of `forget`, ids in ascending order, carry wrong labels."""
        batch, task = step.batches[stream], step.engine.task
        logits, targets = step.outputs(stream)
        place = torch.searchsorted(forget, batch.ids).clamp(max=len(forget) - 1)
        chosen = forget[place] == batch.ids
        draws = step.uniform(stream, "relabel") if fixed is None else fixed[place]
        labels = targets.to("cpu", copy=True)
        self._require_classes(labels, logits, among=chosen)
        labels[chosen] = self._labels(draws[chosen], labels[chosen], logits.shape[1])
        wanted = labels.to(targets.device)
        return step.mean(task.losses_of(logits, wanted, len(batch)), stream)

    def _require_classes(self, targets: Tensor, logits: Tensor, among: Tensor | None = None) -> None:
        _require_two_classes(logits.shape[1])
        remedy = "use a method that draws no labels, such as Ascend"
        require_class_targets(targets, logits, "Relabel", remedy=remedy, among=among)

    def _labels(self, draws: Tensor, true: Tensor, num_classes: int) -> Tensor:
        """Turn uniform numbers in [0, 1) into classes, all `[rows]`; the product stays below the number of classes."""
        if not self.exclude_true:
            return (draws * num_classes).to(true.dtype)
        others = (draws * (num_classes - 1)).to(true.dtype)
        return others + (others >= true)


def _require_two_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise errors.BadRequest(
            f"Relabel: expected a network of two classes or more to draw a wrong label from, found {num_classes}; "
            "use a method that draws no labels, such as Ascend"
        )
